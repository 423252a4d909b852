"""The furniture catalogues of Sweet Home 3D: models, sizes, licences and authors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
import hashlib
from pathlib import Path
import re
import zipfile

from sd_perception_ros.git_lfs import refuse_lfs_pointer
from sd_perception_ros.paths import printable

PROPERTIES = 'PluginFurnitureCatalog.properties'
HELD_OUT_PERCENT = 10

# Each archive has a LICENSE.TXT; these are the five archives of the package.
LICENSES = {
    'BlendSwap-CC-0': 'CC0 1.0',
    'BlendSwap-CC-BY': 'CC-BY 3.0',
    'KatorLegaz': 'CC-BY 3.0 US',
    'Reallusion': 'CC-BY 3.0 US',
    'Scopia': 'CC-BY 3.0',
}

PEOPLE = re.compile(r'\b(female|male|boy|girl)\b', re.IGNORECASE)
PLANTS = re.compile(
    r'acacia|bamboo|ficus|pine|beech|cypress|maple|poplar|palm|coconut|peach|hedge|bush|plant'
    r'|\btree|flower|cactus|sycamore|orchid|bonsai|aloe',
    re.IGNORECASE,
)
# Left out: flat road marks, water, snow, and objects that need a hole in the wall.
UNFIT = re.compile(
    r'pool|crossing|parking|arrow|rails|snow|mannequin|elevator|garage|bill \d|horse|chicken'
    r'|plug|switch|socket|fish',
    re.IGNORECASE,
)
INDOOR = ('Living room', 'Bedroom', 'Office', 'Kitchen', 'Bathroom', 'Lights', 'Miscellaneous')


@dataclass(frozen=True)
class Model:
    """
    One model of a catalogue.

    :ivar key: unique and stable: library, a slash, and the name of the OBJ file.
    :ivar size_m: width (x), depth (y) and height (z) of its bounding box.
    :ivar elevation_m: height of its lower side above the floor; above 0 for objects on walls.
    :ivar top_m: height of its table top above its lower side, 0 if nothing can stand on it.
    :ivar rotation: nine numbers, row by row, applied to the OBJ before it is scaled; or None.
    """

    key: str
    name: str
    category: str
    archive: Path
    entry: str
    size_m: tuple[float, float, float]
    elevation_m: float
    top_m: float
    rotation: tuple[float, ...] | None
    creator: str
    license: str

    @property
    def is_person(self) -> bool:
        """Whether it is one of the clothed people."""
        return self.category == 'Characters' and bool(PEOPLE.search(self.name))

    @property
    def is_plant(self) -> bool:
        """Whether it is a plant."""
        return bool(PLANTS.search(self.name))

    @property
    def held_out(self) -> bool:
        """Whether it is reserved for evaluation: a stable tenth of all models."""
        digest = hashlib.sha256(f'held out, {self.key}'.encode()).digest()
        return digest[0] * 256 + digest[1] < HELD_OUT_PERCENT * 65536 // 100


def read_catalogs(folder: Path) -> list[Model]:
    """
    Read every catalogue below a folder; unsuitable models are left out.

    :param folder: folder with `*.sh3f` files, at any depth.
    :returns: sorted by key, so that the order does not depend on the file system.
    :raises FileNotFoundError: no catalogue was found; the message has the download command.
    """
    archives = sorted(Path(folder).rglob('*.sh3f'))
    if not archives:
        raise FileNotFoundError(
            f"expected furniture catalogues (*.sh3f) below '{folder}', found none; get them with "
            '`apt-get download sweethome3d-furniture && dpkg -x sweethome3d-furniture_*.deb DIR`, '
            'or use `--assets none` for plain boxes and cylinders'
        )
    models = [model for archive in archives for model in _read_archive(archive)]
    return sorted((m for m in models if _is_fit(m)), key=lambda m: m.key)


def _read_archive(archive: Path) -> list[Model]:
    refuse_lfs_pointer(archive)
    try:
        with zipfile.ZipFile(archive) as file:
            text = file.read(PROPERTIES).decode('latin-1')
    except (zipfile.BadZipFile, KeyError) as error:
        raise OSError(
            f'{printable(archive)}: expected a furniture catalogue, a ZIP with {PROPERTIES} '
            f'({error}); get it again'
        ) from None
    entries: dict[int, dict[str, str]] = {}
    for name, number, value in re.findall(r'^(\w+)#(\d+)=(.*)$', text, re.MULTILINE):
        entries.setdefault(int(number), {})[name] = value.strip()
    return [_model(archive, entry) for _, entry in sorted(entries.items())]


def _model(archive: Path, entry: dict[str, str]) -> Model:
    def metres(name: str) -> float:
        return float(entry.get(name, 0)) / 100

    rotation = entry.get('modelRotation')
    path = entry['model'].lstrip('/')
    return Model(
        key=f'{archive.stem}/{Path(path).stem}',
        name=re.sub(r'\\u([0-9a-fA-F]{4})', lambda m: chr(int(m[1], 16)), entry['name']),
        category=entry['category'],
        archive=archive,
        entry=path,
        size_m=(metres('width'), metres('depth'), metres('height')),
        elevation_m=metres('elevation'),
        top_m=max(0.0, metres('dropOnTopElevation')),
        rotation=tuple(float(v) for v in rotation.split()) if rotation else None,
        creator=entry.get('creator', ''),
        license=LICENSES.get(archive.stem, 'see LICENSE.TXT in the archive'),
    )


def _is_fit(model: Model) -> bool:
    too_flat_or_small = model.size_m[2] < 0.02 or max(model.size_m) < 0.12
    return not (
        UNFIT.search(model.name)
        or too_flat_or_small
        or max(model.size_m[:2]) > (9 if model.is_plant else 7)
        or model.category == 'Staircases'
        or (model.category == 'Characters' and model.size_m[2] > 2.2)
    )


def attribution(models: Iterable[Model], bodies: bool = False) -> str:
    """
    Return the credits (Markdown) required by CC-BY, one line for each model.

    :param bodies: whether people from a bank of bodies were used.
    """
    rows = [
        f'- {m.name} (`{m.key}`), by {m.creator or "unknown"}, {m.license}'
        for m in sorted(set(models), key=lambda m: m.key)
    ]
    head = (
        '# Attribution\n\nThe images of this folder show 3D models of the Sweet Home 3D '
        'furniture catalogues (Debian package `sweethome3d-furniture`), scaled, sometimes '
        'tinted, and rendered. The models themselves are not included. Everything else is '
        'procedural; grass, gravel and brick start from the CC0 images of scikit-image.\n\n'
        'CC-BY 3.0: https://creativecommons.org/licenses/by/3.0/ , '
        'CC0 1.0: https://creativecommons.org/publicdomain/zero/1.0/\n\n'
    )
    if bodies:
        head += (
            'Some people were made with Anny (https://github.com/naver/anny; its code is '
            'Apache-2.0) from MakeHuman data, CC0 1.0.\n\n'
        )
    return head + ('\n'.join(rows) if rows else 'No catalogue model was used.') + '\n'
