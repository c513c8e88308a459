"""Settings from elsewhere into the form: a pasted command line or settings file, or the zip of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import gradio as gr

from sds3d.app import fragments, recipe_reader, uploads
from sds3d.app.own_file import picker
from sds3d.app.own_pictures import OwnPicturesPanel
from sds3d.app.recipe_reader import Brought
from sds3d.app.recipes import Recipe
from sds3d.app.result_panel import Updates
from sds3d.app.run_panel import QUIET, block
from sds3d.app.studio import Studio
from sds3d.app.visitors import visitor
from sds3d.files import RunError

EXAMPLE = 'sds3d generate "a red mug" --preset splats guidance.scale=5'


def lay_out(
    studio: Studio,
    default: str,
    fill: Callable[[Recipe, str], Updates],
    filled: Sequence[Any],
    prompt: Any,
    pictures: OwnPicturesPanel,
) -> None:
    """Add the panel to the open layout.

    default: the preset of a command line that names none. fill: shows settings and a file to start from in the form,
    whose widgets are `filled`. prompt: the one for the prompt. pictures: that of the form.
    """
    with gr.Accordion("Settings from elsewhere", open=False, elem_id="bring"):
        text = gr.Textbox(label="A command line, or the text of a settings file", placeholder=EXAMPLE, lines=3,
                          max_lines=8, elem_id="bring-text")  # fmt: skip
        take = gr.Button("Take these settings", size="sm", elem_id="bring-take")
        sent = picker("Choose the zip of a run, or a settings file", uploads.RECIPES, "bring-file")
        said = gr.HTML(visible=False, elem_id="bring-said")

    def show(brought: Brought, reference: str) -> Updates:
        made = brought.recipe
        missing = f" It starts from {brought.file}: add that under “Your own file”." if brought.file else ""
        if brought.missing:
            missing += f" It follows {brought.missing} of your pictures: add them under “Pictures”."
        seed = f" and the seed {made.config.seed}" if made.config.seed else ""
        note = f"The form has the settings: the preset {made.preset}{seed}, {len(made.edits)} changed.{missing}"
        updates = {**fill(made, reference), **pictures.bring(brought.pictures), said: block(fragments.note(note))}
        if not brought.named:
            del updates[prompt]
        return updates

    def of_text(given: str) -> Updates:
        try:
            return show(recipe_reader.of_text(studio, given, default), "")
        except (ValueError, RunError, OSError) as error:
            return {said: block(fragments.error(studio.problem(error)))}

    def of_file(event: gr.EventData) -> Updates:
        try:
            if why := getattr(event, "problem", ""):
                raise ValueError(str(why))
            path = uploads.find(studio, str(getattr(event, "token", "")))
            folder = uploads.new_folder(studio.root, visitor())  # a light is read from it when the run starts
            try:
                brought, data = recipe_reader.of_file(studio, path, default, folder)
            finally:
                uploads.remove(path)
                with suppress(OSError):
                    folder.rmdir()  # unless it has got files
            if not data:
                return show(brought, "")
            own = uploads.new_place(studio.root, visitor(), brought.file)
            own.write_bytes(data)
            return show(replace(brought, file=""), own.parent.name)
        except (ValueError, RunError, OSError) as error:
            return {said: block(fragments.error(studio.problem(error)))}

    outputs = [*filled, said]
    take.click(of_text, text, outputs, **QUIET)
    sent.select(of_file, None, outputs, **QUIET, concurrency_limit=1, concurrency_id="read")
