"""The site in docs/: it builds, and what its pages tell people to type works.

Every fenced block of ``sh`` or ``python`` is run on the demo set with quick settings, page by page
in a folder of its own. Before a block that can't be, ``<!-- not run: REASON -->`` says why.
"""

import contextlib
import dataclasses
import importlib
import importlib.util
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from grad.__main__ import COMMANDS, main, package_of
from grad.data.demo import DEMO_FOLDER
from grad.model.grad import GRAD
from grad.model.presets import PRESETS
from grad.model.size import count_flops, count_parameters
from grad.system.command_line import flag

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "pages"
if not PAGES.is_dir():
    pytest.skip("the documentation is not beside the tests", allow_module_level=True)

RUN = "runs/demo-grad-plus"
QUICK = ["--epochs", "1", "--image-size", "64", "--batch-size", "8", "--preset", "grad-plus"]
QUICK += ["--backbone", "tf_efficientnet_lite0", "--device", "cpu", "--workers", "1"]
FEW = 12  # images in a folder of photos/
NEEDED = {"--format onnx": "onnxscript", "import onnxruntime": "onnxruntime"}
README = "README.md"
ALL = [README, *sorted(path.name for path in PAGES.glob("*.md"))]
ADDRESS = "127.0.0.1:8000"  # as the pages have it
BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^>]+) -->\n)?```(?P<kind>sh|python)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    kind: str
    text: str
    reason: str | None


def read(page: str) -> str:
    return (ROOT / page if page == README else PAGES / page).read_text()


def blocks(page: str) -> list[Block]:
    text = read(page)
    found = [Block(m["kind"], m["text"], m["reason"]) for m in BLOCK.finditer(text)]
    assert len(found) == len(re.findall(r"^```(?:sh|python)\b", text, re.MULTILINE))
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a run on the demo set, and the cache of its features."""
    folder = tmp_path_factory.mktemp("docs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        assert main(["train", *QUICK]) == 0
    return folder


@pytest.fixture
def workplace(trained, tmp_path, monkeypatch):
    """A folder with what the pages speak of, and it is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(trained / "cache"))
    for source in DEMO_FOLDER.rglob("*"):
        if source.is_dir():
            copy = Path("photos", source.relative_to(DEMO_FOLDER))
            copy.mkdir(parents=True, exist_ok=True)
            files = [path for path in source.iterdir() if path.is_file()]
            for path in sorted(files, key=lambda path: path.stem.removesuffix("_mask"))[:FEW]:
                shutil.copy(path, copy)
    for name in ("cookie", "pcb"):
        shutil.copytree(DEMO_FOLDER / name / "test" / "good", Path("more-good-images", name))
    Image.open(next(DEMO_FOLDER.glob("cookie/test/defect/*"))).save("part.png")
    ImageOps.expand(Image.new("L", (48, 48), "white"), 8).save("table.png")
    return tmp_path


class Shell:
    """Runs blocks; ``grad`` in this process, as importing torch takes longer than all else."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server: subprocess.Popen | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    def run(self, block: Block) -> None:
        text = block.text.replace(ADDRESS, f"127.0.0.1:{self.port}")
        if block.kind == "python":
            exec(compile(text, "block", "exec"), {"__name__": "__main__"})
            return
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:2] == ["grad", "serve"]:
                self.serve(words[2:])
            elif words[:1] == ["grad"]:
                self.grad(words[1:])
            elif words:
                subprocess.run(["bash", "-ec", line], check=True, timeout=120)

    def grad(self, arguments: list[str]) -> None:
        quick = {"train": QUICK, "export": ["--images", "part.png"]}.get(arguments[0], [])
        if "--resume" in arguments:
            quick = []
        assert main([*arguments, *quick]) == 0, arguments

    def serve(self, arguments: list[str]) -> None:
        command = [sys.executable, "-m", "grad.serve", *arguments, "--port", str(self.port)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        self.server = subprocess.Popen(command, cwd=self.folder, env=environment)
        for _ in range(600):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health")
                return
            assert self.server.poll() is None, "the server ended"
            time.sleep(0.2)
        raise AssertionError("the server did not start")

    def close(self) -> None:
        if self.server is not None:
            self.server.terminate()
            assert self.server.wait(60) == 0


@pytest.mark.parametrize("page", ALL)
def test_commands_of_a_page_run(page, workplace, trained):
    todo = [block for block in blocks(page) if block.reason is None]
    if not todo:
        pytest.skip("no commands")
    if any("curl" in block.text for block in todo) and shutil.which("curl") is None:
        pytest.skip("no curl on this machine")
    for word, package in NEEDED.items():
        if any(word in block.text for block in todo):
            pytest.importorskip(package)
    if page != "index.md":  # which trains it itself
        shutil.copytree(trained / RUN, RUN)
    shell = Shell(workplace)
    try:
        for block in todo:
            shell.run(block)
    finally:
        shell.close()


# Of curl, cmake, pip, torchrun, gunicorn and our scripts.
OTHER_OPTIONS = [
    *("--build", "--data-binary", "--force-reinstall", "--form", "--nnodes", "--no-cache-dir"),
    *("--no-deps", "--nproc-per-node", "--output", "--preload", "--quick", "--rdzv-backend"),
    *("--rdzv-endpoint", "--silent", "--stage"),
]


@pytest.mark.parametrize("page", ALL)
def test_options_and_extras_of_a_page_exist(page):
    modules = [importlib.import_module(f"{package_of(name)}.options") for name in COMMANDS]
    kinds = [kind for m in modules for kind in vars(m).values() if dataclasses.is_dataclass(kind)]
    fields = [field for kind in kinds for field in dataclasses.fields(kind)]
    known = {flag(field.name) for field in fields} | {"--config", "--help", *OTHER_OPTIONS}
    known |= {flag(f"no_{field.name}") for field in fields if field.type == "bool"}
    text = read(page)
    assert not set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text)) - known
    extras = re.findall(r"(?:grad-anomaly|\.)\[([a-z,]+)\]", text)
    project = (ROOT / "pyproject.toml").read_text()
    assert all(f"\n{extra} = [" in project for one in extras for extra in one.split(","))


@pytest.mark.parametrize("page", [README, "training.md"])
def test_sizes_of_presets_are_those_of_their_models(page):
    rows = re.findall(
        r"^\| `(grad[a-z0-9-]*)` \|.*\| ([\d.]+) M \| ([\d.]+) \|$", read(page), re.MULTILINE
    )
    assert [name for name, _, _ in rows] == list(PRESETS)
    for name, parameters, gflop in rows:
        context = 208 if PRESETS[name].context else 0
        model = GRAD.from_preset(name, 256 + 208 if context else 216, 28, 28, context=context)
        assert f"{count_parameters(model) / 1e6:.1f}" == parameters, name
        assert f"{count_flops(model) / 1e9:.1f}" == gflop, name
    small = re.search(r"`grad-tiny` has ([\d.]+) M on the built-in backbone's (\d+)", read(README))
    model = GRAD.from_preset("grad-tiny", int(small[2]), 28, 28)
    assert f"{count_parameters(model) / 1e6:.1f}" == small[1]


def test_figures_of_the_readme_are_those_of_the_results():
    results = ROOT / "benchmarks" / "results"
    measured = (results / "cpu.md").read_text()
    factors = re.findall(r"([\d.]+) x(?= slower| /)", read(README))
    assert len(factors) >= 10 and set(factors) <= set(re.findall(r"[\d.]+", measured))
    found = re.search(
        r"reaches ([\d.]+) image and ([\d.]+) pixel AUROC after 5 min 23 s", read(README)
    )
    section = (results / "seven-classes-cpu.md").read_text().partition("5 min 23 s in all")[2]
    means = re.search(r"^\| mean \|(.*)\|$", section, re.MULTILINE)[1].split("|")
    assert [f"{float(means[0]):.3f}", f"{float(means[3]):.3f}"] == [found[1], found[2]]


def test_files_that_pages_link_to_or_name_exist():
    for page in (README, "CONTRIBUTING.md"):  # mkdocs looks at the links of the others
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (ROOT / page).read_text()):
            assert (ROOT / target).exists(), (page, target)
    for page in (ROOT / README, ROOT / "CONTRIBUTING.md", *PAGES.glob("*.md")):
        folders = "tests|grad|benchmarks|csrc|docs"
        for name in re.findall(rf"`((?:{folders})/[\w/.]+)`", page.read_text()):
            assert "NAME" in name or (ROOT / name).exists(), (page, name)


def test_the_site_builds(tmp_path):
    if not all(map(importlib.util.find_spec, ("mkdocs", "material", "mkdocstrings"))):
        pytest.skip("the extra docs is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    command += ["--config-file", str(ROOT / "docs/mkdocs.yml"), "--site-dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    api = (tmp_path / "api" / "index.html").read_text()
    assert "doc-heading" in api
    assert not re.findall(r":[a-z]+:<code>", api)
    # Nothing that a page loads comes from elsewhere.
    for page in tmp_path.rglob("*.html"):
        loaded = re.findall(
            r'<(?:script|img|link rel="stylesheet")[^>]*"(https?:[^"]*)', page.read_text()
        )
        assert not loaded, page


def test_one_command_makes_every_picture():
    made = set(re.findall(r'"([\w-]+\.png)"', (ROOT / "docs/pictures.py").read_text()))
    assert made == {path.name for path in (ROOT / "docs/images").iterdir()}
    assert "docs/pictures.py" in (ROOT / "Makefile").read_text()
    assert "make pictures" in (ROOT / "CONTRIBUTING.md").read_text()
