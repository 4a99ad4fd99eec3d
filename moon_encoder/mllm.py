"""The generative multimodal LLM as an encoder (MOON, arXiv 2511.11305): Qwen3-VL and Qwen2.5-VL of `transformers`.

    encoding     picture, text -> visual tokens, text tokens -> the LLM with bidirectional attention -> mean over the
                 last layer's positions
    generation   picture, question -> answer, with causal attention (stage 1)

The same weights do both. A missing modality contributes no tokens. Pictures are seen by the classes' own vision tower
or, in a new model, by a pretrained one (mllm_vision). Shapes as in mllm_inputs.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from PIL import Image
from torch import Tensor

from data.errors import InputError
from moon_encoder.config import Lora, MllmConfig
from moon_encoder.content import Content, has_text
from moon_encoder.encoder import Encoder
from moon_encoder.mllm_inputs import NOTHING, MllmInputs, Row
from moon_encoder.mllm_scratch import TURN_END, TURN_START, model_config, patch_grid, train_tokenizer
from moon_encoder.mllm_vision import BorrowedVision
from moon_encoder.patches import PatchGrid
from moon_encoder.pretrained import model_folder
from moon_encoder.towers import VisionTower

CLASSES = {"qwen3_vl": "Qwen3VLForConditionalGeneration", "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration"}
LONGEST_ANSWER = 32  # generated tokens


class WholePatch(torch.nn.Conv3d):
    """A convolution whose kernel covers its whole input, as the matrix product that it is: a CPU takes it faster."""

    def forward(self, patches: Tensor) -> Tensor:  # type: ignore[override]
        """(P, 3, temporal, p, p) -> (P, width)."""
        return F.linear(patches.flatten(1), self.weight.flatten(1), self.bias)


class Mllm(Encoder):
    """A multimodal LLM; `dim` is the width of its hidden layer."""

    def __init__(
        self, config: MllmConfig, lm: Any, tokenizer: Any, grid: PatchGrid, eyes: VisionTower | None = None
    ) -> None:
        """`eyes`: a pretrained, frozen tower in place of the classes' own; it cuts pictures its own way."""
        super().__init__()
        self.config: MllmConfig = config
        self.lm, self.tokenizer, self.grid = lm, tokenizer, grid
        self.model_config = lm.config
        self.dim: int = lm.config.text_config.hidden_size
        self.matryoshka = tuple(sorted(m for m in config.matryoshka if m < self.dim))
        self.image_token: int = lm.config.image_token_id
        self._read(tokenizer)
        if eyes is None:
            lm.model.visual.patch_embed.proj.__class__ = WholePatch
        else:
            lm.model.visual = BorrowedVision(eyes, self.dim)
            self.grid = lm.model.visual.grid
        _choose_trained(lm, config.lora, config.bf16)
        if eyes is not None:
            eyes.requires_grad_(False)
        if config.gradient_checkpointing:
            lm.gradient_checkpointing_enable({"use_reentrant": False})

    def _read(self, tokenizer: Any) -> None:
        """The tokens that surround texts and pictures."""
        rust = getattr(tokenizer, "backend_tokenizer", None)
        if rust is None:
            raise InputError("a multimodal LLM needs a tokenizer.json beside its weights")
        rust.no_padding()
        rust.enable_truncation(self.config.max_tokens)  # set once: a tokenizer that is only read is safe in threads
        rust.encode_special_tokens = True  # a mark in a title is text
        self._encode = lambda texts: rust.encode_batch(list(texts), add_special_tokens=False)
        start, end = (tokenizer.convert_tokens_to_ids(mark) for mark in (TURN_START, TURN_END))
        if start is None or end is None:
            raise InputError(f"the tokenizer has no {TURN_START} and {TURN_END}; this is not a Qwen-VL checkpoint")
        self.pad: int = end if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        user, assistant, line = (e.ids for e in self._encode(["user\n", "assistant\n", "\n"]))
        self._question_start = [start, *user]
        self._question_end = [end, *line, start, *assistant]
        self._turn_end: int = end
        lm = self.model_config
        self._around_image = lm.vision_start_token_id, lm.vision_end_token_id

    @classmethod
    def build(
        cls, config: MllmConfig, texts: Callable[[], Iterable[str]] | None = None, assets: Path | None = None
    ) -> "Mllm":
        """From a checkpoint, from scratch (`texts` train the tokenizer), or from a saved encoder's assets.

        Raises InputError for a checkpoint that is absent or of other classes, or if there are no texts.
        """
        transformers.utils.logging.disable_progress_bar()
        if assets is None and config.scratch is not None:
            if texts is None:
                raise InputError("a multimodal LLM from scratch needs a catalogue's texts for its tokenizer")
            tokenizer = train_tokenizer(texts(), config.scratch.vocabulary)
            eyes = config.vision and VisionTower(config.vision, model_folder(config.vision), pretrained=True)
            settings = model_config(config.scratch, tokenizer, config.image_pixels, merge=1 if eyes else 2)
            grid = patch_grid(config.scratch, config.image_pixels)
            return cls(config, _class(settings)(settings), tokenizer, grid, eyes)
        folder = assets or model_folder(config)
        try:
            settings = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
            kind = _class(settings)
            loaded = kind(settings) if assets else kind.from_pretrained(folder, local_files_only=True, dtype="float32")
        except (OSError, ValueError, KeyError) as error:
            if isinstance(error, InputError):
                raise
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{folder}: not a multimodal LLM that can be loaded: {reason}") from None
        eyes = config.vision and VisionTower(config.vision, folder / "vision", pretrained=False)
        return cls(config, loaded, tokenizer, PatchGrid.read(folder, config.image_pixels), eyes)

    @property
    def borrowed(self) -> BorrowedVision | None:
        """The pretrained tower with its projector, where it has one."""
        visual = self.lm.model.visual
        return visual if isinstance(visual, BorrowedVision) else None

    def save_assets(self, folder: Path) -> None:
        """Write config.json, the tokenizer's files and preprocessor_config.json; vision/ of a pretrained tower."""
        self.model_config.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        self.grid.write(folder)
        if self.borrowed:
            (folder / "vision").mkdir()
            self.borrowed.tower.save_assets(folder / "vision")

    def frozen_images(self, images: Sequence[Image.Image]) -> np.ndarray | None:
        """What a pretrained tower makes of pictures, (n, T, C)."""
        return None if self.borrowed is None else self.borrowed.maps(images).cpu().numpy()

    def frozen_digest(self) -> str:
        """sha256 over the pretrained tower."""
        return "" if self.borrowed is None else f"map {self.borrowed.tower.digest()}"

    def prepare(self, contents: Sequence[Content]) -> MllmInputs:
        """Contents (n) -> a batch on the CPU, for encoding."""
        return MllmInputs.of(self._beginnings(contents, []), self.pad)

    def prepare_questions(
        self, contents: Sequence[Content], questions: Sequence[Sequence[tuple[str, str | None]]]
    ) -> MllmInputs:
        """Contents (n), each with its questions and their answers (None: to be generated) -> a batch on the CPU."""
        flat = [text for row in questions for pair in row for text in pair if text is not None]
        encoded = iter(self._encode(flat))
        rows = []
        for row, asked in zip(self._beginnings(contents, self._question_start), questions, strict=True):
            ids, segment, label = list(row.ids), list(row.segment), list(row.label)
            place, truncated = list(row.place), row.truncated
            for number, (_, answer) in enumerate(asked, 1):
                question = [*next(encoded).ids, *self._question_end]
                given = next(encoded) if answer is not None else None
                cut = given is not None and bool(given.overflowing)
                reply = [] if given is None else [*given.ids, *([] if cut else [self._turn_end])]
                ids += question + reply
                label += [NOTHING] * len(question) + reply
                segment += [number] * (len(question) + len(reply))
                place += range(len(row.ids), len(row.ids) + len(question) + len(reply))
                truncated |= cut
            rows.append(Row(ids, segment, place, label, row.patches, row.grid, truncated))
        return MllmInputs.of(rows, self.pad)

    def _beginnings(self, contents: Sequence[Content], before: list[int]) -> list[Row]:
        """The tokens of each content: `before`, its picture, its text."""
        texts = iter(self._encode([str(c.text) for c in contents if has_text(c)]))
        rows = []
        for content in contents:
            ids, patches, grid, truncated = list(before), None, (0, 0), False
            if content.image is not None:
                patches, grid = self._cut(content.image)
                start, end = self._around_image
                ids += [start, *[self.image_token] * self.grid.tokens(grid), end]
            if has_text(content):
                encoded = next(texts)
                ids, truncated = ids + encoded.ids, bool(encoded.overflowing)
            nothing = [NOTHING] * len(ids)
            rows.append(Row(ids, [0] * len(ids), list(range(len(ids))), nothing, patches, grid, truncated))
        return rows

    def _cut(self, image: Image.Image | np.ndarray) -> tuple[Tensor, tuple[int, int]]:
        """Patches of a picture and their grid; of a frozen tower's output: its positions (T, C) float32."""
        eyes = self.borrowed
        if eyes is None:
            assert isinstance(image, Image.Image), "nothing of this encoder is frozen"
            return self.grid.cut(image)
        found = eyes.cut(image) if isinstance(image, Image.Image) else torch.from_numpy(np.asarray(image)).float()
        return found, (eyes.side, eyes.side)

    def forward(self, inputs: MllmInputs) -> Tensor:  # type: ignore[override]
        """A batch -> vectors (n, dim) float32."""
        hidden = self._hidden(inputs, inputs.bidirectional_mask()).float()
        present = inputs.present[:, :, None]
        return (hidden * present).sum(1) / present.sum(1)

    def answer_losses(self, inputs: MllmInputs) -> tuple[Tensor, Tensor, Tensor]:
        """-log p of every answer token given picture, question and the answer so far, of a batch with answers.

        Returns losses (T,) float32, and the row (T,) and segment (T,) int64 that each of the T answer tokens is in.
        """
        hidden = self._hidden(inputs, inputs.causal_mask())
        row, at = (inputs.label != NOTHING).nonzero(as_tuple=True)
        with self._autocast():
            logits = self.lm.lm_head(hidden[row, at - 1])  # a token is predicted where the one before it stands
        return F.cross_entropy(logits.float(), inputs.label[row, at], reduction="none"), row, inputs.segment[row, at]

    @torch.no_grad()
    def answers(self, inputs: MllmInputs, longest: int = LONGEST_ANSWER) -> list[str]:
        """The answer of each row (n) to its one question, by greedy generation; for a batch without answers."""
        lengths = inputs.present.sum(1)
        width = inputs.ids.shape[1]
        shift = (torch.arange(width, device=lengths.device) - (width - lengths)[:, None]).clamp(min=0)
        left = torch.arange(width, device=lengths.device) >= (width - lengths)[:, None]
        ids = torch.where(
            left, inputs.ids.gather(1, shift), self.pad
        )  # pads go to the left, where generation wants them
        with self._autocast():
            out = self.lm.generate(
                input_ids=ids,
                attention_mask=left.long(),
                mm_token_type_ids=(ids == self.image_token).int(),
                **self._pixels(inputs),
                max_new_tokens=longest,
                do_sample=False,
                pad_token_id=self.pad,
                eos_token_id=self._turn_end,
            )
        return [text.strip() for text in self.tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)]

    def _hidden(self, inputs: MllmInputs, mask: Tensor) -> Tensor:
        """Last layer (n, L, dim) under an attention mask."""
        with self._autocast():
            return self.lm.model(
                input_ids=inputs.ids,
                attention_mask=mask,
                position_ids=inputs.positions(self.image_token, self.grid.merge),
                use_cache=False,
                **self._pixels(inputs),
            ).last_hidden_state

    def _pixels(self, inputs: MllmInputs) -> dict[str, Tensor]:
        if not len(inputs.image_row):
            return {}
        frames = torch.ones(len(inputs.grid), 1, dtype=torch.int64, device=inputs.grid.device)
        grid = torch.cat([frames, inputs.grid], dim=1)
        patches = inputs.patches
        if self.borrowed is None:
            patches = self.grid.normalised(patches)
        elif patches.dtype == torch.uint8:
            patches = self.borrowed.seen(patches)
        return {"pixel_values": patches, "image_grid_thw": grid}

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bf16)


def _class(settings: Any) -> Any:
    name = CLASSES.get(settings.model_type)
    if name is None:
        raise InputError(f"model_type {settings.model_type!r}: a multimodal LLM is one of {', '.join(CLASSES)}")
    return getattr(transformers, name)


def _choose_trained(lm: Any, lora: Lora | None, bf16: bool) -> None:
    """Train everything, or freeze it (in bfloat16 where asked for) and put adapters in."""
    lm.requires_grad_(lora is None)
    if lora is None:
        return
    from peft import LoraConfig, inject_adapter_in_model

    for parameter in lm.parameters() if bf16 else ():
        parameter.data = parameter.data.to(torch.bfloat16)  # buffers stay: rotary frequencies need their precision
    linear = [name for name, module in lm.named_modules() if isinstance(module, torch.nn.Linear)]
    chosen = [n for n in linear if ".language_model." in n and n.rpartition(".")[2] in lora.targets]
    if lora.vision:
        chosen += [n for n in linear if ".visual." in n]
    if not chosen:
        raise InputError(f"lora.targets {list(lora.targets)}: the model has no such linear layer")
    settings = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=chosen)
    inject_adapter_in_model(settings, lm)
    for name, parameter in lm.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)
