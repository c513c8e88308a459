"""The visitor's picture beside the prompt, see `prompts.image`: for priors that read pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from sds3d.app import cutting, fragments, uploads
from sds3d.app.own_file import OF_A_RUN, picker
from sds3d.app.own_pictures import READ, kept
from sds3d.app.result_panel import Updates
from sds3d.app.run_panel import block
from sds3d.app.studio import Studio
from sds3d.files import RunError
from sds3d.formats.masks import PICTURES
from sds3d.run.config import RunConfig


@dataclass(frozen=True)
class OwnStyle:
    """The widgets. held: holds a token or the name of a run, see `file`."""

    studio: Studio
    held: gr.Textbox
    shown: gr.HTML
    remove: gr.Button

    @property
    def outputs(self) -> list[Any]:
        """The widgets that `open` changes."""
        return [self.held, self.shown, self.remove]

    def open(self, name: str) -> Updates:
        """Show the picture of a run, or why its visitor may not use it."""
        return self.look(f"{OF_A_RUN}{name}")

    def add(self, token: str, trouble: str = "") -> Updates:
        """Show an upload, or why there is none."""
        if trouble:
            return self._show("", fragments.error(trouble))
        try:
            return self.look(kept(self.studio, uploads.find(self.studio, token)))
        except (ValueError, OSError) as error:
            return self._show("", fragments.error(self.studio.problem(error)))

    def look(self, reference: str) -> Updates:
        """Show a picture, or forget it and say why it cannot be read. "": none."""
        try:
            path = file(self.studio, reference)
            picture = None if path is None else cutting.picture(path)
        except (ValueError, RunError, OSError) as error:
            return self._show("", fragments.error(self.studio.problem(error)))
        if picture is None:
            return self._show("", "")
        return self._show(reference, f'<figure class="sds-own"><img src="{picture}" alt="Your picture"></figure>')

    def _show(self, reference: str, html: str) -> Updates:
        return {self.held: reference, self.shown: block(html), self.remove: gr.Button(visible=bool(reference))}

    def told(self, config: RunConfig, reference: str) -> RunConfig:
        """Return the settings with the picture. Raises ConfigError or RunError if it is not the visitor's."""
        path = file(self.studio, reference)
        if path is None:
            return config
        return config.model_copy(update={"prompts": config.prompts.model_copy(update={"image": str(path)})})


def file(studio: Studio, reference: str) -> Path | None:
    """Return the file that a reference of the form names; None for an empty one, or a run without a picture.

    Raises ConfigError or RunError if it is not the visitor's.
    """
    if reference.startswith(OF_A_RUN):
        return studio.own_style(studio.open(reference.removeprefix(OF_A_RUN)))
    return uploads.find(studio, reference) if reference else None


def lay_out(studio: Studio) -> OwnStyle:
    """Add the widgets and their events to the open layout."""
    with gr.Accordion("A picture beside the prompt: its colours and style", open=False, elem_id="style"):
        sent = picker("Choose a picture", PICTURES, "style-file")
        held = gr.Textbox("", visible="hidden", elem_id="style-held")
        shown = gr.HTML(visible=False, elem_id="style-shown")
        remove = gr.Button("Remove the picture", size="sm", visible=False, elem_id="style-remove")
        gr.HTML(
            '<p class="sds-caption">The model reads the picture together with the prompt, if it can: with an '
            "IP-Adapter (<b>prior.ip_adapter</b>), or a toy model by <b>sds3d toybox train --pictures</b>. Runs "
            "with other models refuse it.</p>"
        )
    style = OwnStyle(studio, held, shown, remove)

    def take(event: gr.EventData) -> Updates:
        return style.add(str(getattr(event, "token", "")), str(getattr(event, "problem", "")))

    sent.select(take, None, style.outputs, **READ)
    remove.click(lambda: style.look(""), None, style.outputs, **READ)
    return style
