"""An update killed with SIGKILL at many moments: the model is as it was, or has learned.

PYTHONPATH=.:tests python tests/helpers/update_kills.py [--kills 20] [--preset grad-plus]
"""

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from grad.detector.checkpoint import load_checkpoint
from grad.system.run_folder import MODEL
from grad.train.__main__ import main as train
from grad.train.update.__main__ import main as update
from helpers.images import make_images

_QUICK = "--backbone tf_efficientnet_lite0 --epochs 2 --batch-size 8 --image-size 64 --device cpu"


def kill_updates(run: Path, good: Path, cache: Path, kills: int) -> tuple[int, list[str]]:
    """Kill an update by a new class c at moments spread over it; each time all is put back.

    Args:
        run: of a model that does not know c.
        good: folder of images of c.
        cache: folder for features; removed each time, so that they are computed too.

    Returns:
        How many updates were killed before the model had learned, and what went wrong.
    """
    before = (run / MODEL).read_bytes()
    command = [
        *(sys.executable, "-m", "grad.train.update", str(run)),
        *("--good", str(good), "--class-name", "c", "--cache", str(cache)),
    ]
    start = time.monotonic()
    subprocess.run(command, capture_output=True, check=True)
    seconds = time.monotonic() - start
    assert update([str(run), "--undo"]) == 0
    killed, wrong = 0, []
    for number in range(kills):
        shutil.rmtree(cache, ignore_errors=True)
        # The first half of the time only loads libraries.
        moment = seconds * (0.5 + 0.5 * (number + 0.5) / kills)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
        process.wait()
        try:
            learned = len(load_checkpoint(run).info.updates)
            if learned:  # it was quicker
                assert learned == 1 and update([str(run), "--undo"]) == 0
            else:
                killed += 1
            assert (run / MODEL).read_bytes() == before, "another model"
        except Exception as error:
            wrong.append(f"after {moment:.2f} of {seconds:.2f} s: {error}")
            (run / MODEL).write_bytes(before)
    return killed, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--preset", default="grad-plus")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_images(folder / "data", train=40, test=2, size=64)
        places = ["--data", str(folder / "data"), "--cache", str(folder / "cache")]
        options = [*_QUICK.split(), "--preset", given.preset, "--classes", "a,b"]
        assert train([*options, *places, "--out", str(folder / "run")]) == 0
        good = folder / "data/c/train/good"
        killed, wrong = kill_updates(folder / "run", good, folder / "cache", given.kills)
    print("\n".join(wrong))
    print(f"{given.kills} kills, {killed} before the model had learned, {len(wrong)} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
