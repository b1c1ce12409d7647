"""The whole page: header, tabs, look, and how it is served.

A tab is one module of this package with ``NAME``, ``TITLE``, ``MAX_BYTES`` (of a file given to it)
and ``build``, named in :data:`TABS`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from starlette.middleware import Middleware

from boneage.webui import about, adult, batch, guard, hand, results, tab

if TYPE_CHECKING:
    from boneage.predictor import Predictor
    from boneage.webui.regions import Regions

TABS = (hand, batch, adult)

HEADER = """
<header class="page-header">
  <div>
    <h1>boneage</h1>
    <p>$PURPOSE</p>
  </div>
  <p class="purpose"><strong>For research, not for diagnosis.</strong></p>
</header>"""

PURPOSE = "Bone age from a radiograph of the hand, with the evidence shown."
PURPOSES = (
    "Bone age from a radiograph of the hand, and age from an adult's skeleton, with the evidence "
    "shown."
)

FOOTER = """
<footer class="page-footer">
  Files are read on the machine that serves this page and deleted within an hour; they are not
  logged.
</footer>"""

FOLDER = Path(__file__).parent
STYLES = ("page", "batch", "results", "about")
# Files are looked for every 4 minutes and deleted when older than 50: none is older than an hour.
DELETE_CACHE = (240, tab.KEPT_SECONDS)
QUEUE = 64  # visitors
# Networks run one at a time, and each thread that has run one keeps memory for it.
THREADS = 8
FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif")
MONO_FONTS = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


class Page(gr.Blocks):
    """Blocks that answer data of a wrong form with a sentence, and log nothing of them."""

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *args: Any, **kw: Any) -> Any:
        """What the components make of a request's data; those left out are the components' own.

        Raises:
            gr.Error: for data of a wrong form, which Gradio would print with its traceback.
        """
        left_out = [block.value for block in block_fn.inputs[len(inputs) :]]
        try:
            return await super().preprocess_data(block_fn, [*inputs, *left_out], *args, **kw)
        except gr.Error as error:
            raise gr.Error(error.message, print_exception=False) from None
        except Exception:
            raise gr.Error(guard.FORM, print_exception=False) from None


def build(predictor: Predictor, regions: Regions, *, queue: int = QUEUE) -> gr.Blocks:
    """The page, its weights shared by all visitors.

    Args:
        predictor: the weights for hands.
        regions: the weights for adults; where there are none, there is no tab for them.
        queue: visitors who may wait; those beyond are told that the page is busy.
    """
    guard.own_folder()  # before Gradio asks where uploads go
    with Page(
        title="boneage", analytics_enabled=False, delete_cache=DELETE_CACHE, fill_width=True
    ) as page:
        header = HEADER.replace("$PURPOSE", PURPOSES if regions.names else PURPOSE)
        gr.HTML(header, apply_default_css=False, js_on_load=None)
        with gr.Tabs():
            with gr.Tab(hand.TITLE):
                hand.build(predictor)
            with gr.Tab(batch.TITLE):
                batch.build(predictor)
            if regions.names:
                with gr.Tab(adult.TITLE):
                    adult.build(regions)
            with gr.Tab(results.TITLE):
                results.build()
            with gr.Tab(about.TITLE):
                about.build()
        gr.HTML(FOOTER, apply_default_css=False, js_on_load=None)
    # Without the queue's order two visitors' assessments could run at once.
    return page.queue(max_size=queue, api_open=False)


def launch(page: gr.Blocks, host: str, port: int, *, block: bool = True) -> str:
    """Serve the page; return its address, at once if ``block`` is false.

    Nothing is fetched from other hosts: fonts are the system's, analytics and sharing are off.

    Raises:
        OSError: if the port is taken.
    """
    max_bytes = max(each.MAX_BYTES for each in TABS)
    _, url, _ = page.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=not block,
        quiet=True,
        share=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        run_history=False,
        max_file_size=max_bytes,
        state_session_capacity=1000,
        max_threads=THREADS,
        footer_links=["api", "settings"],
        theme=theme(),
        css_paths=[FOLDER / f"{name}.css" for name in STYLES],
        js=script(),
        app_kwargs={
            "routes": results.routes(),
            "middleware": [Middleware(guard.Guard, max_upload=max_bytes)],
            "lifespan": guard.keep_clean,
        },
    )
    return url


def script() -> str:
    """The page's JavaScript, with the tabs' size limits."""
    text = (FOLDER / "page.js").read_text(encoding="utf-8")
    return text.replace("$LIMITS", json.dumps({f"{t.NAME}-file": t.MAX_BYTES for t in TABS}))


def theme() -> gr.themes.Base:
    """Calm blues and greys, the visitor's own fonts."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.sky,
        secondary_hue=gr.themes.colors.sky,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_lg,
        font=FONTS,
        font_mono=MONO_FONTS,
    ).set(
        # The defaults are too faint to read on their backgrounds.
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        # White on the default blue, and that blue on white, have a contrast of 2.8 (WCAG 2: 4.5).
        color_accent="*primary_700",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_hover_dark="*primary_800",
    )
