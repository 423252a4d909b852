"""
A stand-in for NVIDIA's `tensorrt`, which needs a GPU: it builds nothing, and nothing runs.

It lets tests walk through the steps around a build: process, cache, errors. What it "builds" is a
text. Its names are those of TensorRT 10.3, 10.16 and 11.4; that proves nothing about real engines.

Environment: STANDIN_TENSORRT = refuse, fail, crash, or hang; STANDIN_BUILDS = a file that gets a
line for each build.
"""

from __future__ import annotations

from enum import Enum, IntEnum
import os
from pathlib import Path
import signal
from types import SimpleNamespace

__version__ = '10.3.0'
MODE = os.environ.get('STANDIN_TENSORRT', '')


class NetworkDefinitionCreationFlag(IntEnum):
    STRONGLY_TYPED = 1


class BuilderFlag(Enum):
    TF32 = 1


class ILogger:
    class Severity(Enum):
        """How bad it is."""

        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2

    def __init__(self):
        pass


class Network:
    """Inputs of a graph."""

    def __init__(self):
        self.inputs = []
        self.num_inputs = 0

    def get_input(self, index):
        return self.inputs[index]


class OnnxParser:
    """Reads names of inputs."""

    def __init__(self, network, log):
        self.network = network
        self.num_errors = 1

    def parse_from_file(self, file):
        import onnx

        graph = onnx.load(file, load_external_data=False).graph
        self.network.inputs = [SimpleNamespace(name=each.name) for each in graph.input]
        self.network.num_inputs = len(self.network.inputs)
        return MODE != 'refuse'

    def get_error(self, index):
        return SimpleNamespace(desc=lambda: 'No importer registered\nfor op: Foo')


class TimingCache:
    """Bytes."""

    def __init__(self, content):
        self.content = content

    def serialize(self):
        return self.content + b'measured;'


class Config:
    """Flags, profiles, timing cache."""

    def __init__(self):
        self.flags = set(BuilderFlag)
        self.profiles = []

    def clear_flag(self, flag):
        self.flags.remove(flag)

    def create_timing_cache(self, content):
        return TimingCache(content)

    def set_timing_cache(self, cache, ignore_mismatch):
        self.cache = cache
        return not cache.content.startswith(b'other')

    def get_timing_cache(self):
        return self.cache

    def add_optimization_profile(self, profile):
        self.profiles.append(profile)
        return 0


class Profile:
    """Ranges of shapes."""

    def __init__(self):
        self.ranges = {}

    def set_shape(self, name, low, best, high):
        self.ranges[name] = (low, best, high)


class Builder:
    """Writes down what it was asked."""

    def __init__(self, log):
        self.log = log

    def create_network(self, flags):
        assert flags == 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED
        return Network()

    def create_builder_config(self):
        return Config()

    def create_optimization_profile(self):
        return Profile()

    def build_serialized_network(self, network, config):
        if builds := os.environ.get('STANDIN_BUILDS'):
            with Path(builds).open('a') as file:
                file.write('built\n')
        if MODE == 'crash':
            os.kill(os.getpid(), signal.SIGKILL)
        if MODE == 'hang':
            signal.pause()
        if MODE == 'fail':
            self.log.log(ILogger.Severity.ERROR, 'no tactic\nfits')
            return None
        shapes = {each.name: each.shape for each in network.inputs}
        ranges = [profile.ranges for profile in config.profiles]
        return f'plan {shapes} {ranges} {sorted(config.flags)}'.encode()


class Runtime:
    """Accepts what the builder wrote."""

    def __init__(self, log):
        self.log = log

    def deserialize_cuda_engine(self, content):
        if not content.startswith(b'plan'):
            return None
        return SimpleNamespace(num_io_tensors=0, content=content.decode())
