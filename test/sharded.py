"""
The train command with its weights sharded over processes: torchrun test/sharded.py ARGUMENTS.

accelerate asks for GPUs before it shards; torch itself shards anywhere. That one question is
answered here, so that FSDP runs, and is tested, on processors. With STOP_AFTER=N in the
environment the processes are gone once the state after step N is written.
"""

from __future__ import annotations

import os
from pathlib import Path
import sys
from typing import Any

os.environ |= {
    'ACCELERATE_USE_FSDP': 'true',
    'FSDP_VERSION': '2',
    'FSDP_AUTO_WRAP_POLICY': 'TRANSFORMER_BASED_WRAP',
    'FSDP_TRANSFORMER_CLS_TO_WRAP': 'ResnetBlock2D',
    'FSDP_STATE_DICT_TYPE': 'SHARDED_STATE_DICT',
}

from accelerate import Accelerator, DistributedType
from accelerate.state import AcceleratorState, PartialState

from sd_perception_ros.cli import train
from sd_perception_ros.training import loop

_start = AcceleratorState.__init__
_save = loop.save_state


def start_sharded(self: Any, *args: Any, **options: Any) -> None:
    _start(self, *args, **options)
    if plugin := options.get('fsdp_plugin'):
        self.fsdp_plugin = plugin
        PartialState._shared_state['distributed_type'] = DistributedType.FSDP
        self.distributed_type = DistributedType.FSDP


def save_and_stop(accelerator: Accelerator, folder: Path, done: int, run: dict[str, Any]) -> None:
    assert accelerator.distributed_type == DistributedType.FSDP
    _save(accelerator, folder, done, run)
    if os.environ.get('STOP_AFTER') == str(done):
        accelerator.wait_for_everyone()
        os._exit(9)


AcceleratorState.__init__ = start_sharded
loop.save_state = save_and_stop
sys.exit(train.main(sys.argv[1:]))
