"""The studio: a web page that starts runs and shows their folders. It stores nothing itself."""

import os

# Gradio reads these on import: no usage reports, no history in the browser.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["GRADIO_RUN_HISTORY"] = "False"

from sds3d.app.server import launch

__all__ = ["launch"]
