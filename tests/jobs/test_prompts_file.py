"""Files of prompts: all formats round-trip, and all invalid lines are listed at once."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sds3d.config import ConfigError
from sds3d.jobs.batch import make_batch
from sds3d.jobs.prompts_file import parse_shard, read_prompts, same_runs
from sds3d.presets import DEFAULT_PRESET
from sds3d.run.config import make_config, stage_config, stage_count

BOM = "\ufeff"
Lines = list[tuple[str, int | None, str, float | None]]

prompts = (
    st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=40)
    .map(str.strip)
    .filter(lambda text: text and not text.startswith("#"))
)
rows = st.lists(
    st.tuples(
        prompts,
        st.none() | st.integers(0, 2**70),
        st.sampled_from(["", "toybox", "mesh"]),
        st.sampled_from([None, 5.0, 1e-7]),
    ),
    min_size=1,
    max_size=6,
)
few = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def written(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def problems(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_prompts(path, overrides=overrides)
    return [line.removeprefix(str(path)) for line in str(caught.value).splitlines()]


@few
@given(texts=st.lists(prompts, min_size=1), end=st.sampled_from(["\n", "\r\n"]), bom=st.booleans())
def test_a_text_file_has_one_prompt_per_line(texts: list[str], end: str, bom: bool, tmp_path: Path):
    lines = ["# a remark", "", *(f"  {text} " for text in texts), "   "]
    # If the text itself starts with U+FEFF, it needs a byte-order mark before it.
    mark = BOM if bom or lines[0].startswith(BOM) else ""
    found = read_prompts(written(tmp_path / "prompts.txt", mark + end.join(lines)))
    assert [(entry.line, entry.config.prompt) for entry in found] == list(enumerate(texts, start=3))


@few
@given(rows=rows)
def test_csv_and_json_lines_give_the_same_runs(rows: Lines, tmp_path: Path):
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["prompt", "seed", "guidance.scale", "preset", "steps", ""])
    writer.writerows(
        ("" if cell is None else cell for cell in (p, seed, scale, preset)) for p, seed, preset, scale in rows
    )
    objects = [
        {"prompt": p}
        | ({} if seed is None else {"seed": seed})
        | ({"preset": preset} if preset else {})
        | ({} if scale is None else {"overrides": {"guidance.scale": scale}})
        for p, seed, preset, scale in rows
    ]
    lines = "\n".join(json.dumps(values, ensure_ascii=i % 2 == 0) for i, values in enumerate(objects))
    common = ["steps=7", "seed=5", "guidance.scale=2", "guidance.schedule.max=[0.9, 0.5]"]
    of_csv = read_prompts(written(tmp_path / "prompts.csv", BOM + table.getvalue()), overrides=common)
    of_json = read_prompts(written(tmp_path / "prompts.jsonl", lines), overrides=common)
    assert [entry.config for entry in of_csv] == [entry.config for entry in of_json]
    for entry, (prompt, seed, preset, scale) in zip(of_json, rows, strict=True):
        assert (entry.config.prompt, entry.preset) == (prompt, preset or DEFAULT_PRESET)
        assert entry.config.seed == (5 if seed is None else seed)
        own = [] if scale is None else [f"guidance.scale={scale}"]
        wanted = make_config(prompt, preset or DEFAULT_PRESET, [*common, *own])
        assert entry.config == wanted.model_copy(update={"seed": entry.config.seed})
        stages = [stage_config(entry.config, i) for i in range(stage_count(entry.config))]
        assert {stage.guidance.schedule.max for stage in stages} == {(0.9, 0.5)}  # type: ignore[union-attr]


@few
@given(seeds=st.lists(st.integers(0, 9), min_size=1, max_size=12), count=st.integers(1, 15))
def test_every_run_is_in_exactly_one_shard(seeds: list[int], count: int, tmp_path: Path):
    path = written(tmp_path / "prompts.jsonl", "\n".join(json.dumps({"prompt": "a mug", "seed": s}) for s in seeds))
    entries = read_prompts(path)
    whole = make_batch(tmp_path / "out", entries).names
    shards = [make_batch(tmp_path / "out", read_prompts(path), (i, count)).names for i in range(1, count + 1)]
    assert sorted(name for names in shards for name in names) == sorted(whole)
    assert len(set(whole)) == len(whole) == len(set(seeds))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1
    assert sum(len(group) for group in same_runs(entries)) == len(seeds)


def test_all_invalid_lines_are_listed_with_suggestions(tmp_path: Path):
    path = written(
        tmp_path / "prompts.csv",
        "prompt,seed,preset,guidance.scal,steps\n"
        "a red mug,1,splats,,9\n"
        "a chair,-1,,,\n"
        "a chair,,splatz,,\n"
        "a chair,,,5,\n"
        "a red, green mug,,,,,\n"
        ",3,,,\n"
        "\n"
        "a chair,,,6,\n"
        "a chair,,,,many\n" + "a" * 1001 + ",,,,\n",
    )
    assert problems(path) == [
        ":3: seed = -1: give a whole number, 0 or more",
        ':4: there is no preset "splatz"; did you mean "splats"?',
        ':5: unknown key "guidance.scal" in all stages (multiview); did you mean "guidance.scale"? (also in line 9)',
        ":6: seed = green mug: give a whole number, 0 or more",
        ':7: the prompt is empty: describe an object, for example "a red mug"',
        ":10: steps = 'many': input should be a valid integer, unable to parse string as an integer",
        ":11: the prompt has 1001 characters: shorten it to 1000 or fewer",
    ]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"prompt": ', "not JSON: Expecting value at character 12"),
        ('["a red mug"]', 'not an object; write {"prompt": "a red mug"}'),
        ("[" * 100_000, "not usable JSON"),
        ('{"prompt": "x", "sed": 1}', 'unknown key "sed"; did you mean "seed"?'),
        ('{"prompt": "x", "guidance.scale": 1}', 'unknown key "guidance.scale"; settings belong in "overrides"'),
        ('{"seed": 1}', '"prompt" is missing'),
        ('{"prompt": 3}', '"prompt" = 3: give a string'),
        ('{"prompt": "x", "preset": 3}', '"preset" = 3: give a string'),
        ('{"prompt": "x", "seed": true}', "seed = true: give a whole number"),
        ('{"prompt": "x", "seed": 1.5}', "seed = 1.5: give a whole number"),
        ('{"prompt": "\\ud800"}', "the prompt has the control character U+D800"),
        ('{"prompt": "x", "overrides": 3}', '"overrides": give {"guidance.scale": 5}'),
        ('{"prompt": "x", "overrides": ["steps"]}', '"steps" is not KEY=VALUE'),
        ('{"prompt": "x", "overrides": {"prompt": "y"}}', '"prompt" is not a setting'),
        ('{"prompt": "x", "overrides": {"guidance.name": "sdss"}}', 'did you mean "sds"?'),
    ],
)
def test_an_invalid_json_line(line: str, problem: str, tmp_path: Path):
    found = problems(written(tmp_path / "prompts.jsonl", '{"prompt": "a red mug"}\n\n' + line))
    assert len(found) == 1
    assert found[0].startswith(":3: ")
    assert problem in found[0]


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        ("promt,seed", ':1: the header has no column "prompt"; did you mean "promt"?'),
        ("a,b", ':1: the header has no column "prompt"; add it'),
        ("", ':1: the header has no column "prompt"; add it'),
        ("prompt,sed", ':1: unknown column "sed"; did you mean "seed"?'),
        ("prompt,preset,preset", ':1: the header has the column "preset" twice'),
        ('prompt,"seed', ":2: not CSV: unexpected end of data"),
    ],
)
def test_an_invalid_csv_header(header: str, problem: str, tmp_path: Path):
    assert problems(written(tmp_path / "prompts.csv", header + "\na red mug,1\n")) == [problem]


def test_cells_without_a_column(tmp_path: Path):
    path = written(tmp_path / "prompts.csv", "prompt,seed,\na red, green mug,1,2\nx,1,2\ny,,\n")
    assert problems(path) == [
        ":2: 4 cells under 3 columns; put a prompt with a comma in quotes",
        ":3: '2' is in a column without a name",
    ]


def test_semicolons_and_tabs_are_separators_too(tmp_path: Path):
    for separator in ";\t":
        text = f'"prompt"{separator}seed\r\na red, green mug{separator}4\r\n'
        (entry,) = read_prompts(written(tmp_path / "prompts.csv", text))
        assert (entry.config.prompt, entry.config.seed) == ("a red, green mug", 4)


def test_unusable_files(tmp_path: Path):
    assert problems(written(tmp_path / "prompts.txt", "# nothing\n")) == [
        " has no prompts; write one per line, for example: a red mug"
    ]
    assert problems(tmp_path / "missing.txt") == [": No such file or directory"]
    assert problems(written(tmp_path / "prompts.docx", "x")) == [
        ': ".docx" is not a file of prompts; give a .txt, .csv or .jsonl file'
    ]
    (tmp_path / "latin.txt").write_bytes(b"\xef\xbb\xbfa mug\na caf\xe9\n")
    assert problems(tmp_path / "latin.txt") == [":2: not UTF-8 text (byte 0xe9); save it as UTF-8"]


def test_a_pipe_a_device_and_a_huge_file_are_not_read(tmp_path: Path):
    pipe, device, huge = tmp_path / "pipe.txt", tmp_path / "full.txt", tmp_path / "huge.txt"
    os.mkfifo(pipe)
    device.symlink_to("/dev/full")
    with huge.open("wb") as file:
        file.truncate(23_000_000_000)
    for path, what in ((pipe, "a pipe or a device"), (device, "a pipe or a device"), (huge, "23000 MB; 16 MB are the")):
        with pytest.raises(ConfigError, match=f"{path.name} .*{what}"):
            read_prompts(path)
    for path in (pipe, device):
        preset = path.with_suffix(".yaml")
        path.rename(preset)
        with pytest.raises(ConfigError, match=r"\.yaml is a pipe or a device, not a file"):
            make_config("a red mug", str(preset))


def test_an_invalid_setting_on_the_command_line_is_reported_once(tmp_path: Path):
    path = written(tmp_path / "prompts.txt", "x\n" * 2 + "\n" + "x\n" * 3)
    assert problems(path, "stepz=3") == [':1: unknown key "stepz"; did you mean "steps"? (also in lines 2, 4-6)']


@pytest.mark.parametrize("text", ["", "0/2", "3/2", "1", "1/0", "a/b", "-1/2", "1/2/3", "1.5/2"])
def test_an_invalid_shard(text: str):
    with pytest.raises(ConfigError, match="give i/n"):
        parse_shard(text)
    assert parse_shard(" 2/4 ") == (2, 4)
