"""Every exception that vramprof raises on purpose, as one tree.

Each message is one line that says what is wrong and, where there is a way out, names it. The command line prints it
and exits with 2.
"""


class VramprofError(Exception):
    """Anything that vramprof refuses or cannot do."""


class RecordingError(VramprofError):
    """A file or folder is not a recording that can be read."""


class UnsafeFileError(RecordingError):
    """A pickle asks for more than plain data; nothing in it was executed."""


class SessionError(VramprofError):
    """The profiler was used in a way that makes no sense: nested, reused, or not started."""


class NoDeviceError(VramprofError):
    """A CUDA device is needed and there is none."""


class EmulatorError(VramprofError):
    """The emulated device cannot be started."""


class TorchAlreadyImportedError(EmulatorError):
    """The emulated device has to be loaded before torch."""


class UnsupportedPlatformError(EmulatorError):
    """The emulated device needs Linux on x86-64 and a CUDA build of torch."""


class UnknownSymbolError(EmulatorError):
    """The installed torch asks for a CUDA symbol that the emulated device does not know."""


class UnknownGpuError(VramprofError):
    """No GPU of that name is in the catalog."""


class GpuFileError(VramprofError):
    """A file does not describe a GPU in full or is wrong about it."""


class DryRunError(VramprofError):
    """A program's dry run on an emulated device failed for another reason than memory."""


class ArchitectureError(VramprofError):
    """No such model is known, or its config.json lacks what the closed forms need."""


class PlanError(VramprofError):
    """A plan was asked for that no machine could carry out."""


class FitError(VramprofError):
    """A search for the largest number that fits was asked for in a way that makes no sense."""


class LeakError(VramprofError, AssertionError):
    """Something that should be gone is still alive: memory grows for certain, or survived a `check` block."""
