"""The output of a batch: a manifest, contact sheets, and a page that escapes prompts and errors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from sds3d.formats.pictures import to_png
from sds3d.jobs import gallery
from sds3d.jobs.batch import Batch, make_batch
from sds3d.jobs.gallery import write_gallery
from sds3d.jobs.prompts_file import read_prompts
from sds3d.presets import DEFAULT_PRESET

EVIL = ["<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "it's & a {mug} 100% ½ 杯子", "../../etc/passwd"]


def batch_of(root: Path, prompts: Sequence[str], shard: tuple[int, int] = (1, 1)) -> Batch:
    """Make a batch of finished runs with the files that the gallery reads."""
    (root / "prompts.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    batch = make_batch(root / "out", read_prompts(root / "prompts.jsonl"), shard)
    for number, job in enumerate(batch.jobs):
        job.run.update(status="done", step=9, total=9, seconds=1.234)
        job.run.previews.mkdir(exist_ok=True)
        shade = np.linspace(0, 1, 8, dtype=np.float32)[:, None, None, None] * np.float32([number % 2, 0.5, 1])
        (job.run.previews / "latest.png").write_bytes(to_png(np.broadcast_to(shade, (8, 16, 16, 3))))
        for name in ("x.glb", "x-splats.ply", "turntable.mp4", ".x.glb.tmp", "particle-2/x.glb"):
            (job.run.exports / name).parent.mkdir(parents=True, exist_ok=True)
            (job.run.exports / name).write_bytes(b"data")
    return batch


class Page(HTMLParser):
    """Collects the elements, links and text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.addresses += [value or "" for name, value in attrs if name in ("href", "src")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_safe_and_its_links_exist(tmp_path: Path):
    batch = batch_of(tmp_path, [*EVIL, "a red mug"])
    batch.jobs[-1].run.update(status="failed", error="<b>no</b> surface")
    write_gallery(batch, "<i>prompts</i>.txt")
    page = Page(batch.root / "index.html")
    assert page.tags.count("script") == 1
    assert not {"b", "i", "link", "iframe"} & set(page.tags)
    assert page.tags.count("img") == len(batch.jobs)
    assert not any(name.startswith("on") for name in page.attributes)
    for text in (*EVIL, "<b>no</b> surface", "<i>prompts</i>.txt", "4 done, 1 failed", "particle-2/glb", "splats.ply"):
        assert text in page.text
    assert len(page.addresses) > 5 * len(batch.jobs)
    for address in page.addresses:
        path = batch.root / unquote(address)
        assert path.is_file(), address
        assert path.resolve().is_relative_to(batch.root.resolve())


def test_the_manifest_has_one_line_per_prompt_in_the_order_of_the_file(tmp_path: Path):
    batch = batch_of(tmp_path, ["b", "a", "b", "c"])
    batch.jobs[2].run.update(status="failed", error="no surface", step=3)
    write_gallery(batch, "prompts")
    rows = [json.loads(line) for line in (batch.root / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(row["line"], row["prompt"], row["status"]) for row in rows] == [
        (1, "b", "done"),
        (2, "a", "done"),
        (3, "b", "done"),
        (4, "c", "failed"),
    ]
    assert rows[0]["run"] == rows[2]["run"]
    assert (rows[3]["error"], rows[3]["steps"], rows[0]["seconds"], rows[0]["seed"]) == ("no surface", 3, 1.23, 0)
    assert rows[0]["preset"] == DEFAULT_PRESET
    names = ("particle-2/x.glb", "turntable.mp4", "x-splats.ply", "x.glb")
    assert rows[0]["exports"] == [f"{rows[0]['run']}/exports/{name}" for name in names]


def test_runs_that_have_not_started_are_listed_too(tmp_path: Path):
    (tmp_path / "prompts.txt").write_text("a red mug\na blue chair\n")
    batch = make_batch(tmp_path / "out", read_prompts(tmp_path / "prompts.txt"))
    (batch.jobs[1].run.folder / "state.json").write_text("{")
    written = write_gallery(batch, "prompts")
    assert [path.name for path in written] == ["manifest.jsonl", "index.html"]
    page = Page(batch.root / "index.html")
    assert "1 new, 1 failed" in page.text
    assert "state.json is damaged" in page.text


def test_linked_pictures_are_not_shown(tmp_path: Path):
    run = batch_of(tmp_path, ["a red mug"]).jobs[0].run
    shown = gallery._views(run.folder, 16)
    assert len(np.unique(shown)) > 2
    picture = run.previews / "latest.png"
    picture.rename(tmp_path / "secret.png")
    picture.symlink_to(tmp_path / "secret.png")
    assert run.preview is None
    assert np.unique(gallery._views(run.folder, 16)).tolist() == [np.float32(0.8)]
    picture.unlink()
    run.previews.rename(tmp_path / "elsewhere")
    (tmp_path / "secret.png").rename(tmp_path / "elsewhere" / "latest.png")
    run.previews.symlink_to(tmp_path / "elsewhere")
    assert run.preview is None


def test_shards_do_not_overwrite_each_others_files(tmp_path: Path):
    names = [{path.name for path in write_gallery(batch_of(tmp_path, "abc", (i, 2)), "x")} for i in (1, 2)]
    assert names[0] == {"manifest-1-of-2.jsonl", "index-1-of-2.html", "contact_sheet-1-of-2.png"}
    assert not names[0] & names[1]


def test_many_assets_fill_several_sheets_with_front_views(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gallery, "FEW", 2)
    monkeypatch.setattr(gallery, "COLUMNS", 2)
    monkeypatch.setattr(gallery, "SHEET_ROWS", 1)
    batch = batch_of(tmp_path, "abcde")
    (batch.jobs[0].run.previews / "latest.png").write_bytes(b"no picture")
    written = [path.name for path in write_gallery(batch, "prompts")][2:]
    assert written == ["contact_sheet.png", "contact_sheet-page-2.png", "contact_sheet-page-3.png"]
    with Image.open(batch.root / written[1]) as sheet:
        blue_or_not = [sheet.getpixel((sheet.width - 20 - 100 * i, 100)) for i in (0, 1)]
    assert blue_or_not == [(0, 0, 0)] * 2  # the first of the eight views
    fewer = Batch(batch.root, batch.jobs[:2])
    write_gallery(fewer, "prompts")
    assert not list(batch.root.glob("contact_sheet-page-*"))
