"""The one model: what was recorded, by whatever source, in tables that everyone downstream reads."""

from vramprof.recording.recorder import Recorder
from vramprof.recording.recording import Recording
from vramprof.recording.stacks import Frame, Stacks
from vramprof.recording.storage import load_folder, open_folder, save_folder

__all__ = ["Frame", "Recorder", "Recording", "Stacks", "load_folder", "open_folder", "save_folder"]
