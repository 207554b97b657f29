"""What has to happen before TensorFlow is imported: the backend is set, and its start-up chatter is kept back.

TensorFlow writes notes on oneDNN and missing GPUs straight to file descriptor 2, before any setting can stop it. What it writes
while it starts is held, and shown after all unless it is such a note.
"""

import contextlib
import os
import re
import sys
import tempfile

# absl's notes (I) and warnings (W), its header, and the one error that only says that there is no GPU.
_CHATTER = re.compile(rb"^([IW]\d{4} |WARNING: All log messages before absl|E\d{4} .*failed call to cuInit)")


@contextlib.contextmanager
def quiet_start():
    """Holds back what is written to standard error in the block, and lets through what is not chatter."""
    try:
        descriptor = sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):  # no real standard error, as under pytest
        yield
        return
    sys.stderr.flush()
    kept = os.dup(descriptor)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), descriptor)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, descriptor)
            os.close(kept)
            held.seek(0)
            shown = b"".join(line for line in held if not _CHATTER.match(line))
            if shown.strip():
                os.write(descriptor, shown)


os.environ.setdefault("KERAS_BACKEND", "tensorflow")  # what the user has set stays
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
with quiet_start():
    import keras

if keras.backend.backend() != "tensorflow":
    raise ImportError(f"tfllm needs KERAS_BACKEND=tensorflow; got {keras.backend.backend()!r}")
