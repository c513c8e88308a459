"""The picture beside the prompt that a visitor brings: from the upload to the run, and back into the form."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from sds3d.app import own_style
from sds3d.app.own_style import OwnStyle
from sds3d.app.studio import Studio
from sds3d.app.visitors import visiting
from sds3d.config import ConfigError
from sds3d.files import RunError
from sds3d.run.config import read_config
from tests.app.sending import send, square


@pytest.fixture
def style(shop: Studio) -> OwnStyle:
    with gr.Blocks():
        return own_style.lay_out(shop)


def test_an_upload_reaches_the_run_and_the_form_of_the_run(style: OwnStyle, shop: Studio):
    with visiting("ada"):
        updates = style.add(send(shop))
        held = updates[style.held]
        assert "data:image/jpeg;base64," in updates[style.shown].value
        assert updates[style.remove].visible
        plain = shop.config("a red mug", "toybox")
        run = shop.start(style.told(plain, held))
        image = Path(read_config(run).prompts.image)
        assert image.is_relative_to(run.folder)
        assert (np.asarray(Image.open(image)) == np.asarray(square())).all()
        again = style.open(run.folder.name)
        assert shop.start(style.told(plain, again[style.held])) == run
        assert style.look("")[style.held] == ""
        assert style.told(plain, "") == plain
    with visiting("bob"):  # neither the upload nor the run's copy is another visitor's
        for reference in (held, again[style.held]):
            with pytest.raises((ConfigError, RunError)):
                style.told(plain, reference)


def test_what_is_no_picture_is_named(style: OwnStyle, shop: Studio):
    with visiting("ada"):
        for updates in (style.add(send(shop, picture=b"GIF89a")), style.add("0" * 32), style.add("", "too large")):
            assert updates[style.held] == ""
            assert 'role="alert"' in updates[style.shown].value or "error" in updates[style.shown].value
