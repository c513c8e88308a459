"""The gallery page of a batch: one HTML file that shows the run folders next to it, without server or network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

from sds3d.jobs.queue import LiveStatus

NAMES = {"contact_sheet.png": "views", "turntable.mp4": "turntable"}
KINDS = (
    "views",
    "turntable",
    "glb",
    "obj",
    "mtl",
    "png",
    "ply",
    "stl",
    "usdz",
    "splats.glb",
    "splats.ply",
    "splat",
    "spz",
)
"""The order of a card's links."""

_HEAD = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; font: 15px/1.4 system-ui, sans-serif }}
body {{ margin: 0 auto; max-width: 1400px; padding: 1rem }}
header {{ display: flex; flex-wrap: wrap; gap: .5rem 1.5rem; align-items: baseline; margin-bottom: 1rem }}
h1 {{ font-size: 1.3rem; margin: 0 }}
input {{ font: inherit; flex: 1; min-width: 12rem; padding: .4rem .7rem }}
main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); gap: 1rem }}
article {{ border: 1px solid #8884; border-radius: 8px; overflow: hidden; content-visibility: auto;
  contain-intrinsic-size: auto 320px }}
article[hidden] {{ display: none }}
.view {{ position: relative; display: block; aspect-ratio: 1; background: #fff }}
.view > * {{ position: absolute; inset: 0; width: 100%; height: 100% }}
.view img {{ object-fit: cover; object-position: 0 0 }}
.view video {{ object-fit: contain; background: #fff; opacity: 0 }}
.view video.on {{ opacity: 1 }}
.none {{ display: grid; place-items: center; color: #888; background: #8882 }}
.text {{ padding: .6rem .8rem .8rem }}
h2 {{ font-size: 1rem; margin: 0; overflow-wrap: anywhere; overflow: hidden; display: -webkit-box;
  -webkit-box-orient: vertical; -webkit-line-clamp: 4 }}
p {{ margin: .2rem 0; font-size: .85rem; opacity: .75; overflow-wrap: anywhere }}
p.error {{ color: #d33; opacity: 1 }}
.text a {{ font-size: .85rem; margin-right: .6rem; display: inline-block }}
</style>
<header><h1>{title}</h1><span>{counts}</span>
<input type="search" placeholder="Filter by prompt, preset, seed or status" aria-label="Filter">
</header>
<main>
"""

_FOOT = """</main>
<script>
const cards = [...document.querySelectorAll("article")];
document.querySelector("input").addEventListener("input", event => {
  const words = event.target.value.toLowerCase().split(/\\s+/);
  for (const card of cards) {
    const text = card.querySelector(".text").textContent.toLowerCase();
    card.hidden = !words.every(word => text.includes(word));
  }
});
for (const video of document.querySelectorAll("video")) {
  video.parentElement.addEventListener("mouseenter", () => video.play());
  video.parentElement.addEventListener("mouseleave", () => { video.pause(); video.classList.remove("on"); });
  video.addEventListener("playing", () => video.classList.add("on"));
}
</script>
</html>
"""


@dataclass(frozen=True)
class Row:
    """A line of the manifest: a prompt of the file, and its result so far.

    seconds, steps: spent and done so far. run: its folder. exports: its files; paths relative to the batch's folder.
    """

    line: int
    prompt: str
    seed: int
    preset: str
    status: LiveStatus
    error: str
    seconds: float
    steps: int
    run: str
    exports: list[str]


def page(rows: Sequence[Row], title: str, root: Path) -> str:
    """Return the page of a batch in the folder `root`; its links are relative."""
    counts = Counter(row.status for row in rows)
    summary = ", ".join(f"{count} {status}" for status, count in counts.most_common())
    return _HEAD.format(title=escape(title), counts=escape(summary)) + "".join(_card(row, root) for row in rows) + _FOOT


def _card(row: Row, root: Path) -> str:
    preview, video = f"{row.run}/previews/latest.png", f"{row.run}/exports/turntable.mp4"
    inside = ""
    if (root / preview).exists():
        inside = f'<img src="{quote(preview)}" loading="lazy" alt="{escape(row.prompt)}, front">'
    if video in row.exports:
        inside += f'<video src="{quote(video)}" preload="none" muted loop playsinline></video>'
        view = f'<a class="view" href="{quote(video)}">{inside}</a>'
    else:
        view = f'<div class="view">{inside or f"<span class=none>{escape(row.status)}</span>"}</div>'
    facts = f"line {row.line} · {row.status} · seed {row.seed} · {row.preset} · {row.steps} steps · {row.seconds:.0f} s"
    error = f'<p class="error">{escape(row.error)}</p>' if row.error else ""
    named = sorted((_name(path), path) for path in row.exports)
    named.sort(key=lambda pair: KINDS.index(pair[0]) if pair[0] in KINDS else len(KINDS))
    links = " ".join(f'<a href="{quote(path)}">{escape(name)}</a>' for name, path in named)
    prompt = escape(row.prompt)
    text = f'<h2 title="{prompt}">{prompt}</h2><p>{escape(facts)}</p>{error}{links}'
    return f'<article>{view}<div class="text">{text}</div></article>\n'


def _name(path: str) -> str:
    """Return the label of a file's link: its kind, since the prompt is shown above it."""
    _, _, *folders, file = path.split("/")
    kind = file.rpartition(".")[2]
    name = NAMES.get(file) or (f"splats.{kind}" if file.endswith(f"-splats.{kind}") else kind)
    return "/".join([*folders, name])  # particle-2/glb
