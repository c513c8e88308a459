"""Finding and loading models, and errors in one clear line."""

from __future__ import annotations

import gc
import http.server
import json
import shutil
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, PreTrainedModel, T5EncoderModel

from sds3d.files import PriorError
from sds3d.priors import loading
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.priors.loading import ALIASES, MOVED, chosen_weights, find, pick_dtype, wanted_files
from sds3d.priors.texts import KEPT
from tests.priors.tiny import FAMILIES, tiny_pipeline

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for family in FAMILIES:
        tiny_pipeline(family).save_pretrained(root / family)
    return root


@pytest.fixture
def copy(folders: Path, tmp_path: Path) -> Path:
    """A copy of a Stable Diffusion folder that tests may damage."""
    shutil.copytree(folders / "sd", tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: object, **kwargs: object) -> None:
        raise AssertionError("the network was touched")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)


def failure(**config: object) -> str:
    with pytest.raises(PriorError) as error:
        DiffusersConfig(**config).load()
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(("can't load the model", "prior."))
    return message


@pytest.mark.usefixtures("no_network")
def test_folders_never_touch_the_network(folders: Path) -> None:
    for family in FAMILIES:
        prior = DiffusersConfig(model=str(folders / family)).load()
        assert len(prior.encode_text(["a red mug", ""])) == 2
    DiffusersConfig().load()


@pytest.mark.usefixtures("no_network")
def test_offline_ids_are_searched_only_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert "not in the local cache" in failure(model="sdxl", offline=True)
    assert "stabilityai/stable-diffusion-xl-base-1.0" in failure(model="sdxl", offline=True)


def test_deleted_ids_have_replacements() -> None:
    for name in ("stable-diffusion-2", "stable-diffusion-2-base", "stable-diffusion-2-1", "stable-diffusion-2-1-base"):
        assert MOVED[f"stabilityai/{name}"] == f"sd2-community/{name}"
    assert ALIASES["sd21"] == MOVED["stabilityai/stable-diffusion-2-1"]
    assert MOVED["runwayml/stable-diffusion-v1-5"] == ALIASES["sd15"]
    assert all(name.count("/") == 1 for name in [*ALIASES.values(), *MOVED.values()])


class Hub(http.server.BaseHTTPRequestHandler):
    """Imitates the hub: it refuses `me/gated` and `me/nothing`, and serves `me/pickled` and `me/whole`."""

    folder: Path
    requested: list[str]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.requested.append(self.path)
        if self.path.startswith("/api/models/me/"):
            name = self.path.split("/")[4].partition("?")[0]
            if "/revision/missing" in self.path:
                return self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
            match name:
                case "gated":
                    return self.answer(403, b"", {"X-Error-Code": "GatedRepo"})
                case "pickled":
                    names = ["model_index.json", "unet/diffusion_pytorch_model.bin"]
                case "whole":
                    names = [str(f.relative_to(self.folder)) for f in self.folder.rglob("*") if f.is_file()]
                    names += [
                        "v1-5-pruned.ckpt",
                        "unet/diffusion_pytorch_model.bin",
                        "safety_checker/model.safetensors",
                    ]
                case _:
                    return self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})
            files = [{"type": "file", "path": file, "oid": "b" * 40, "size": 1} for file in names]
            info = {"id": f"me/{name}", "sha": "a" * 40, "siblings": [{"rfilename": file} for file in names]}
            info = files if "/tree/" in self.path else info
            return self.answer(200, json.dumps(info).encode(), {})
        file = self.folder / self.path.split("/resolve/")[-1].partition("/")[2]
        if not file.is_file():
            return self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        return self.answer(
            200, file.read_bytes(), {"X-Repo-Commit": "a" * 40, "ETag": f'"{file.parent.name}-{file.name}"'}
        )

    def answer(self, code: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The requests to a local hub; the cache starts empty."""
    handler = type("Handler", (Hub,), {"folder": folders / "sd", "requested": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    monkeypatch.setattr(
        huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", address)
    yield handler.requested
    server.shutdown()
    server.server_close()


def test_refusals_of_the_hub_name_the_cure(hub: list[str]) -> None:
    assert "accept its licence at https://huggingface.co/me/gated" in failure(model="me/gated")
    assert "no such model" in failure(model="me/nothing")
    assert "its unet is pickled" in failure(model="me/pickled")


def test_an_id_is_downloaded_once_and_only_what_is_needed(
    hub: list[str], folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior = DiffusersConfig(model="me/whole").load()
    local = DiffusersConfig(model=str(folders / "sd")).load()
    assert torch.equal(prior.encode_text(["a mug"]).hidden, local.encode_text(["a mug"]).hidden)
    fetched = {path.split("/resolve/")[-1] for path in hub if "/resolve/" in path}
    assert any(path.endswith("unet/diffusion_pytorch_model.safetensors") for path in fetched)
    assert not any(path.endswith((".bin", ".ckpt")) or "safety_checker" in path for path in fetched)
    hub.clear()
    DiffusersConfig(model="me/whole", offline=True).load().encode_text(["a chair"])
    assert hub == []
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", "http://127.0.0.1:9")  # no server responds there
    DiffusersConfig(model="me/whole").load()


def test_a_revision_is_asked_for_and_kept_apart(hub: list[str]) -> None:
    DiffusersConfig(model="me/whole", revision="v2").load()
    assert any("/revision/v2" in path for path in hub)
    assert all("/resolve/v2/" in path or f"/resolve/{'a' * 40}/" in path for path in hub if "/resolve/" in path)
    hub.clear()
    DiffusersConfig(model="me/whole", revision="v2", offline=True).load()
    assert hub == []
    assert "not in the local cache" in failure(model="me/whole", revision="v3", offline=True)
    assert "it has no revision 'missing'" in failure(model="me/whole", revision="missing")


def test_wrong_names_are_reported(tmp_path: Path) -> None:
    assert 'did you mean "sd21"' in failure(model="sd-21")
    assert "neither a folder nor an id" in failure(model=str(tmp_path / "nowhere"))
    (tmp_path / "model.ckpt").write_bytes(b"")
    assert "only .safetensors files are read" in failure(model=str(tmp_path / "model.ckpt"))
    assert "model_index.json is missing" in failure(model=str(tmp_path))


def test_wrong_folders_are_reported(copy: Path) -> None:
    index = copy / "model_index.json"
    original = json.loads(index.read_text())
    index.write_text(json.dumps({**original, "_class_name": "StableVideoDiffusionPipeline"}))
    assert "StableVideoDiffusionPipeline" in failure(model=str(copy))
    index.write_text(json.dumps({**original, "_class_name": "StableDiffusionXLPipeline"}))
    prior = DiffusersConfig(model=str(copy)).load()
    with pytest.raises(PriorError, match="tokenizer_2"):
        prior.encode_text(["a mug"])
    index.write_text("{")
    assert str(copy) in failure(model=str(copy))
    index.write_text(json.dumps(original))
    scheduler = copy / "scheduler" / "scheduler_config.json"
    before = scheduler.read_text()
    scheduler.write_text(json.dumps({**json.loads(before), "_class_name": "EDMEulerScheduler"}))
    assert "EDM" in failure(model=str(copy))
    scheduler.write_text(before)
    assert "multiple of 2" in failure(model=str(copy), image_size=15)


def test_weights_are_checked(copy: Path) -> None:
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    save_file({name: value for name, value in state.items() if name != "conv_in.weight"}, weights)
    assert "conv_in.weight" in failure(model=str(copy))
    save_file(state, weights)
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "unet/diffusion_pytorch_model.safetensors is truncated" in failure(model=str(copy))
    weights.unlink()
    assert "unet has no weights" in failure(model=str(copy))
    torch.save(state, copy / "unet" / "diffusion_pytorch_model.bin")
    assert "pickled" in failure(model=str(copy))


def test_text_encoders_are_freed_and_texts_are_encoded_once(folders: Path, tmp_path: Path) -> None:
    for family in ("sd", "sdxl", "sd3", "flux dev", "if"):
        folder = tmp_path / family
        shutil.copytree(folders / family, folder)
        prior = DiffusersConfig(model=str(folder)).load()
        assert encoders() == []  # nothing is loaded before the first text is encoded
        held: list[weakref.ref[PreTrainedModel]] = []
        load = prior.family.texts.load

        def watched(load=load, held=held):
            encode = load()
            held.extend(weakref.ref(encoder) for encoder in encoders())
            return encode

        prior.family.texts.load = watched
        first = prior.encode_text(["a red mug", "", "a red mug"])
        assert len(held) >= {"sdxl": 2, "sd3": 3, "flux dev": 2}.get(family, 1)
        assert all(encoder() is None for encoder in held)
        for part in folder.glob("text_encoder*"):
            shutil.rmtree(part)
        again = prior.encode_text(["", "a red mug"])
        assert torch.equal(again.hidden, first.hidden[1:])
        assert torch.equal(first.hidden[0], first.hidden[2])
        with pytest.raises(PriorError, match="text_encoder"):
            prior.encode_text(["a blue mug"])


def encoders() -> list[PreTrainedModel]:
    return [thing for thing in gc.get_objects() if type(thing).__name__.startswith(("CLIPTextModel", "T5EncoderModel"))
            and isinstance(thing, (CLIPTextModel, T5EncoderModel, PreTrainedModel))]  # fmt: skip


def test_the_number_of_kept_texts_is_limited(folders: Path) -> None:
    prior = DiffusersConfig(model=str(folders / "sd")).load()
    texts = [f"a mug {i}" for i in range(KEPT + 6)]
    rows = prior.encode_text(texts)
    assert len(rows) == KEPT + 6
    assert torch.equal(prior.encode_text(texts[:2]).hidden, rows.hidden[:2])  # dropped, and encoded again


def test_one_set_of_weights_per_part_is_chosen() -> None:
    both = ["model.safetensors", "model.fp16.safetensors", "model.bin", "model.non_ema.safetensors"]
    assert chosen_weights(both, half=False) == ["model.safetensors"]
    assert chosen_weights(both, half=True) == ["model.fp16.safetensors"]
    assert chosen_weights(both[1:], half=False) == ["model.fp16.safetensors"]
    shards = [
        "diffusion_pytorch_model-00001-of-00002.safetensors",
        "diffusion_pytorch_model-00002-of-00002.safetensors",
    ]
    assert chosen_weights(shards, half=True) == shards
    files = ["model_index.json", "README.md", "x.safetensors", "tokenizer/merges.txt", "tokenizer_2/spiece.model",
             "unet/config.json", *(f"unet/{name}" for name in shards), "image_encoder/model.safetensors",
             "unet/diffusion_pytorch_model.bin.index.json", "unet/diffusion_pytorch_model.safetensors.index.json",
             "unet/onnx/model.safetensors"]  # fmt: skip
    assert set(wanted_files(files, half=False)) == {
        "model_index.json", "tokenizer/merges.txt", "tokenizer_2/spiece.model", "unet/config.json",
        *(f"unet/{name}" for name in shards), "unet/diffusion_pytorch_model.safetensors.index.json",
    }  # fmt: skip


def test_fp16_files_are_loaded_in_the_requested_type(copy: Path) -> None:
    for part, stem in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ):
        file = copy / part / f"{stem}.safetensors"
        half = {name: value.half() if value.is_floating_point() else value for name, value in load_file(file).items()}
        save_file(half, file.with_suffix(".fp16.safetensors"), metadata={"format": "pt"})
        file.unlink()
    prior = DiffusersConfig(model=str(copy)).load()
    assert {p.dtype for p in prior.network.parameters()} == {torch.float32}
    assert prior.encode_text(["a mug"]).hidden.dtype == torch.float32


def test_types_of_this_machine() -> None:
    assert pick_dtype("auto", CPU) == torch.float32
    assert pick_dtype("bfloat16", CPU) == torch.bfloat16
    assert find("toybox", offline=True, dtype=torch.float32, device=CPU).folder == loading.toybox_folder()


SHORT_OF_MEMORY = """
import resource, sys
from pathlib import Path
import torch
from sds3d.files import lacks_memory
from sds3d.priors.diffusers import DiffusersConfig

DiffusersConfig().load(torch.device("cpu"))  # imports what is imported late
most = resource.getrlimit(resource.RLIMIT_AS)
for megabytes in map(int, sys.argv[1:]):
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + megabytes * 1_000_000, most[1]))
    try:
        DiffusersConfig().load(torch.device("cpu"))
    except Exception as error:
        print(lacks_memory(error), error)
    resource.setrlimit(resource.RLIMIT_AS, most)
"""


@pytest.mark.slow
def test_a_model_is_not_called_damaged_when_memory_runs_out() -> None:
    command = [sys.executable, "-c", SHORT_OF_MEMORY, "2", "8"]  # megabytes
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    told = done.stdout.splitlines()
    assert len(told) == 2, done.stdout + done.stderr
    assert all(line.startswith("True can't load the model 'toybox': out of memory (") for line in told), told
    assert "damaged" not in done.stdout
