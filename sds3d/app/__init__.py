"""The studio: a web page that starts runs and shows what is in their folders. It keeps nothing of its own."""

import os

# Before gradio is imported, which reads them then: nothing is reported to anybody, nothing recorded in the browser.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["GRADIO_RUN_HISTORY"] = "False"

from sds3d.app.server import launch

__all__ = ["launch"]
