"""The page: its tabs, and the events that concern several of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from sds3d.app import api, fragments, tab_compare, tab_create, tab_library, tab_system
from sds3d.app.result_panel import Updates
from sds3d.app.run_panel import QUIET, block
from sds3d.app.studio import Studio
from sds3d.config import ConfigError
from sds3d.files import RunError

# The Back and Forward buttons of the browser open what their address names.
FOLLOW = """() => { window.addEventListener('popstate', () => window.location.reload());
document.addEventListener('click', event => {
  if (event.target.closest('[role=tab], [data-action=compare]')) window.sds3dTurned = true; }, true); }"""

# Puts the tab into the address when the visitor chooses it; opening a run does so itself.
REMEMBER_TAB = """() => { const url = new URL(window.location), before = url.searchParams.get('tab') ?? 'create';
if (before === '%(tab)s' || !window.sds3dTurned) return;
window.sds3dTurned = false;
'%(tab)s' === 'create' ? url.searchParams.delete('tab') : url.searchParams.set('tab', '%(tab)s');
window.history.pushState(null, '', url); }"""


def build_page(studio: Studio) -> gr.Blocks:
    """Build the page of a studio. Raises ConfigError if an override of the studio is wrong."""
    studio.config(tab_create.EXAMPLES[0], tab_create.DEFAULT_PRESET)
    with gr.Blocks(title="sds3d", analytics_enabled=False, delete_cache=(3600, 86400)) as page:
        gr.HTML(fragments.HEAD)
        with gr.Tabs(selected="create") as tabs:
            with gr.Tab("Create", id="create") as first:
                making = tab_create.lay_out(studio)
            with gr.Tab("Library", id="library") as second:
                shelf = tab_library.lay_out(studio)
            with gr.Tab("Compare", id="compare") as third:
                comparing = tab_compare.lay_out(studio)
            with gr.Tab("System", id="system") as fourth:
                looking = tab_system.lay_out(studio)
        api.lay_out(studio)
        Between(studio, tabs, (first, second, third, fourth), making, shelf, comparing, looking).wire(page)
    for function in page.fns.values():
        if function.api_name not in api.ENDPOINTS:
            function.api_visibility = "private"
    return page


@dataclass(frozen=True)
class Between:
    """Events that concern several tabs."""

    studio: Studio
    tabs: gr.Tabs
    pages: tuple[gr.Tab, ...]
    create: tab_create.CreateTab
    library: tab_library.LibraryTab
    compare: tab_compare.CompareTab
    system: tab_system.SystemTab

    def wire(self, page: gr.Blocks) -> None:
        """Add the events."""
        shelf, comparing = self.library, self.compare
        given: list[Any] = [*shelf.inputs, comparing.runs]
        shown = [*shelf.outputs, shelf.message, *comparing.outputs]
        given_first = [self.tabs, *self.create.outputs, *self.create.drafts.outputs]
        opened = page.load(self.restore, None, given_first, **QUIET)
        opened.then(None, None, None, js=FOLLOW)
        turned = [shelf.timer, comparing.timer, self.system.view, *shown]
        for tab in self.pages:  # one event per tab: while a shared one is processed, the next would be lost
            tab.select(partial(self.turn_to, str(tab.id)), given, turned, **QUIET)
            tab.select(None, None, None, js=REMEMBER_TAB % {"tab": tab.id})
        shelf.cards.select(self.act, given, [self.tabs, *shown, *self.create.outputs], **QUIET)

    def restore(self, request: gr.Request) -> Updates:
        """Handle a visit: open the tab and the run of the address, or an empty form with a new seed."""
        self.studio.expect_runs()
        name, tab = (str(request.query_params.get(key) or "") for key in ("run", "tab"))
        updates = self.create.open(name) if name else {self.create.seed: tab_create.new_seed()}
        if drafts := str(request.query_params.get("drafts") or ""):
            closed = {} if name else self.create.live.close()
            updates |= {**closed, **self.create.drafts.open(drafts.split(","))}
        return updates | ({self.tabs: gr.Tabs(selected=tab)} if tab in [page.id for page in self.pages] else {})

    def turn_to(self, tab: str, search: str, state: str, limit: float, runs: list[str]) -> Updates:
        """Handle the choice of a tab: its timer starts, and those of the others stop."""
        updates: Updates = {
            self.library.timer: gr.Timer(active=tab == "library"),
            self.compare.timer: gr.Timer(active=tab == "compare"),
        }
        if tab == "library":
            updates |= self.library.show(search, state, limit)
        elif tab == "compare":
            updates |= self.compare.choose(runs)
        elif tab == "system":
            updates[self.system.view] = self.system.show()
        return updates

    def act(self, event: gr.EventData, search: str, state: str, limit: float, runs: list[str]) -> Updates:
        """Handle a button of a card."""
        name = str(event.run)
        match event.action:
            case "open":
                return self.opened(name)
            case "again":
                return self.again(name)
            case "compare":
                return {self.tabs: gr.Tabs(selected="compare"), **self.compare.choose([*runs, name])}
            case action:
                return {**self.library.act(str(action), name), **self.library.show(search, state, limit)}

    def opened(self, name: str) -> Updates:
        """Open a run in the tab "Create"."""
        return {self.library.message: block(""), self.tabs: gr.Tabs(selected="create"), **self.create.open(name)}

    def again(self, name: str) -> Updates:
        """Start a run with the same settings and a new seed."""
        try:
            run = self.create.again(name)
        except (RunError, ConfigError, OSError) as error:
            return {self.library.message: block(fragments.error(self.studio.problem(error)))}
        return self.opened(run.folder.name)
