"""Command lines with mistakes: each ends in time and within its memory, with a known exit code and errors in one line.

    python -m tests.cli.mutated_commands FOLDER 1000 7

tries 1000 with the seed 7. Each runs in a fork of this process, which must have no threads of kernels.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shlex
import signal
import sys
import time
from pathlib import Path

import numba
import torch

from sds3d.cli.main import main
from sds3d.config import dump_yaml
from sds3d.priors.loading import import_libraries
from sds3d.run.config import make_config, new_run
from sds3d.run.settings import settings_of
from tests.run.tiny_runs import finish, tiny

INTERRUPT, HANG = 20.0, 180.0
"""Seconds after which a command is interrupted, as by Ctrl-C, and after which it counts as hung."""
MEMORY = 8 << 30
"""Bytes of address space that a command may add."""
CODES = {0, 1, 2, 130}

TINY = ("steps=1", "cameras.size=16", "export.formats=[ply]", "export.resolution=16", "export.frames=4",
        "export.picture_size=32", "export.texture_size=64")  # fmt: skip
VALUES = (
    "", " ", "-1", "0", "1", "nan", "inf", "1e400", "9" * 400, "1.5", "true", "null", "~", "[]", "{}", "[", "{a: ",
    "a: b: c", "[1, 2, 3]", "[[[[[[[[[]]]]]]]]]", "{name: sds, name: vsd}", "!!python/object/apply:os.system [ls]",
    "&a [*a, *a]", "2026-13-45", "0x1F", "1_000", "'", '"', "%s%n", "$(ls)", "`ls`", "; ls", "-", "--", "---", "=",
    "==", ".", "..", "a.b.c=1", "\n", "a\nb", "\x1b[2J", "\u202e", "💥", "a red mug" * 300, "x" * 20_000, "\udcff",
    "/dev/zero", "/dev/full", "/dev/null", "/proc/self/cmdline", "/nowhere/at/all", "../nothing", "toybox", "sds",
    "mesh", "cuda", "cuda:99", "meta", "cpu", "mps", "sd15", "tensorboard", "splat-glb", "glb,,ply", "1/0", "0/0",
    "2/1", "-1/4", "1/1000000000", "64", "512", "4096", "100000", "1e9", "-0.0", "1e-30",
)  # fmt: skip
"""Values where others belong. None names a file that a command could overwrite."""
OPTIONS = ("--json", "--debug", "--help", "--preset", "--seed", "--steps", "--out", "--device", "--threads", "--format",
           "--shard", "--idle", "--workers", "--retries", "--together", "--rule", "--space", "--pictures", "--scale",
           "--model", "--version", "--objects", "--size", "-h", "-x", "--", "--nonsense")  # fmt: skip


class Files:
    """The files that commands name, some of them damaged."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.folder = folder
        self.done, self.paused = new_run(folder / "runs", tiny(steps=2)), new_run(folder / "runs", tiny(steps=3))
        finish(self.done)
        finish(self.paused, 1)
        self.mesh = self.done.exports / "a-ball.glb"
        self.text, self.csv, self.yaml = folder / "prompts.txt", folder / "prompts.csv", folder / "mine.yaml"
        self.text.write_text("a red mug\na blue chair\n")
        self.csv.write_text("prompt,seed,guidance.scale\na red mug,1,5\n")
        self.yaml.write_text(dump_yaml(make_config("a red mug")))
        self.others = []
        for path in (self.mesh, self.text, self.csv, self.yaml, self.done.config_path, self.done.folder / "state.json"):
            data = bytearray(path.read_bytes())
            for _ in range(8):
                data[chance.randrange(len(data))] = chance.randrange(256)
            damaged = folder / f"damaged-{path.name}"
            damaged.write_bytes(data[: chance.randrange(1, len(data) + 1)])
            self.others.append(damaged)
        broken = new_run(folder / "runs", tiny(steps=4))
        (broken.folder / "state.json").write_text('{"status": "weird"}')
        linked = new_run(folder / "runs", tiny(steps=5))
        (linked.folder / "exports").symlink_to(folder)
        pipe = folder / "pipe.txt"
        os.mkfifo(pipe)
        self.others += [broken.folder, linked.folder, pipe, folder, folder / "missing.txt", self.done.checkpoints[0]]

    def commands(self) -> list[tuple[int, list[str]]]:
        """Valid commands, with how often each is taken."""
        runs = str(self.folder / "runs")
        return [
            (8, ["generate", "a red mug", "--out", "out", *TINY]),
            (4, ["generate", "a blue chair", "--preset", "splats", "--seed", "3", *TINY]),
            (3, ["generate", "a red mug", "--preset", "mesh", "--json", *TINY]),
            (3, ["generate", "a red mug", "--preset", str(self.yaml), *TINY]),
            (3, ["generate", "a red mug", f"start_from={self.mesh}", "--threads", "1", *TINY]),
            (5, ["texture", str(self.mesh), "a red mug", "--out", "out", *TINY]),
            (4, ["resume", str(self.paused.folder), "--device", "cpu"]),
            (6, ["export", str(self.done.folder), "--format", "ply,obj", "resolution=16", "frames=4"]),
            (2, ["batch", str(self.text), "--out", "assets", "--shard", "1/2", *TINY]),
            (2, ["batch", str(self.csv), "--out", "assets", "--workers", "1", *TINY]),
            (4, ["runs", "--out", runs, "--json"]),
            (2, ["pause", str(self.done.folder)]),
            (2, ["cancel", str(self.done.folder)]),
            (2, ["worker", "--out", "empty", "--idle", "0", "--retries", "1"]),
            (4, ["presets", "--json"]),
            (6, ["settings", "guidance", "--preset", "mesh", "guidance=vsd"]),
            (2, ["doctor", "--json"]),
            (4, ["playground2d", "a red mug", "--rule", "sds", "--steps", "1", "--out", "flat"]),
            (3, ["toybox", "sample", "a red mug", "--steps", "1", "--out", "sample.png"]),
            (3, ["toybox", "render", "a red mug", "--size", "16", "--out", "render.png"]),
            (1, ["bench", "toybox", "nothing", "--prompts", "1"]),
            (1, ["app", "--port", "99999"]),
        ]


def mutated(words: list[str], files: Files, keys: list[str], chance: random.Random) -> list[str]:
    """Change a command line in one to three places; its name stays, as a rule."""
    words = list(words)
    for _ in range(chance.choice((1, 1, 2, 3))):
        at = chance.randrange(1, len(words)) if len(words) > 1 and chance.random() < 0.95 else 0
        anything = [*VALUES, *map(str, files.others)]
        match chance.randrange(8):
            case 0:
                del words[at]
            case 1:
                words.insert(at, words[chance.randrange(len(words))])
            case 2:
                words[at] = chance.choice(anything)
            case 3:
                words.insert(at, chance.choice(OPTIONS))
            case 4:
                words.append(f"{chance.choice(keys)}={chance.choice(anything)}")
            case 5:  # a typing error
                letters = list(words[at] or "x")
                letters[chance.randrange(len(letters))] = chance.choice("aZ9.=-/ \t{é")
                words[at] = "".join(letters)
            case 6:
                key, equals, _ = words[at].partition("=")
                words[at] = f"{key}{equals}{chance.choice(anything)}" if equals else words[at] * 2
            case 7:
                words.append(f"{chance.choice(VALUES)}={chance.choice(VALUES)}")
        if not words:
            words = ["generate"]
    return words


def carried_out(words: list[str], folder: Path) -> tuple[int | None, str, float]:
    """Run a command in a fork. Return its exit code, None if it hung, all it printed, and its seconds."""
    log = folder / "log"
    child = os.fork()
    if child == 0:
        os.setsid()
        os.chdir(folder)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))
        sys.stdin, sys.stdout, sys.stderr = (
            os.fdopen(0),
            os.fdopen(1, "w"),
            os.fdopen(2, "w", errors="backslashreplace"),
        )
        code = 1
        try:
            main(words)
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        except BaseException as error:
            os.write(2, f"ESCAPED {type(error).__name__}: {error}\n".encode(errors="replace"))
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    began, interrupted = time.monotonic(), False
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        seconds = time.monotonic() - began
        if done:
            break
        if seconds > HANG:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            break
        if seconds > INTERRUPT and not interrupted:
            os.kill(child, signal.SIGINT)
            interrupted = True
        time.sleep(0.02)
    text = log.read_text(errors="replace") if log.exists() else ""
    return (os.waitstatus_to_exitcode(status) if done else None), text, seconds


def problems(code: int | None, text: str) -> list[str]:
    """What is wrong with the end of a command."""
    errors = [line.removeprefix("error: ") for line in text.splitlines() if line.startswith("error: ")]
    kinds = [line.partition(":")[0] for line in errors]
    wrong = {
        f"did not end within {HANG:.0f} s": code is None,
        f"exit code {code}": code not in {None, *CODES},
        "a traceback": "Traceback (most recent call last)" in text or "ESCAPED" in text,
        "an error that nobody foresaw": any(kind.isidentifier() and kind.endswith("Error") for kind in kinds),
        "an endless line": any(len(line) > 2100 for line in errors),
        "failed without a word": code == 1 and not text.strip(),
    }
    return [what for what, so in wrong.items() if so]


def try_commands(where: Path, count: int, seed: int) -> list[str]:
    """Run `count` commands below a folder. Return what is wrong with them."""
    numba.config.THREADING_LAYER = "workqueue"  # OpenMP does not survive a fork
    torch.set_num_threads(1)
    import_libraries()  # once, not in every fork
    chance = random.Random(seed)
    files = Files(where / "files", chance)
    keys = [setting.key for setting in settings_of(make_config("a red mug"))]
    weights, commands = zip(*files.commands(), strict=True)
    wrong, slowest = [], []
    for number in range(count):
        words = mutated(chance.choices(commands, weights)[0], files, keys, chance)
        if "--debug" in words or "--share" in words or "--auth" in words:  # tracebacks and public addresses on demand
            continue
        folder = where / str(number)
        folder.mkdir()
        code, text, seconds = carried_out(words, folder)
        slowest.append((round(seconds, 1), code, shlex.join(words)[:300]))
        if found := problems(code, text):
            wrong.append({"number": number, "problems": found, "words": words, "code": code, "output": text[-1500:]})
    print(json.dumps({"tried": len(slowest), "slowest": sorted(slowest)[-5:], "wrong": wrong}, indent=1))
    return [f"{one['problems']}: {one['words']}"[:400] for one in wrong]


if __name__ == "__main__":
    given, number_of_commands, chosen_seed = sys.argv[1:]
    sys.exit(bool(try_commands(Path(given), int(number_of_commands), int(chosen_seed))))
