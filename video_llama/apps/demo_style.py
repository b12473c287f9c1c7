"""How the demo page looks: a quiet theme with the system's own fonts, and what Gradio lacks.

Nothing is fetched from elsewhere. Colours come from the theme, so the dark mode of a browser works.
"""

from __future__ import annotations

from typing import Any

FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")

CSS = """
.gradio-container { max-width: 1240px !important; margin: 0 auto !important; }
.gradio-container main { width: 100%; }
button.icon-button svg { height: auto; aspect-ratio: 1; }
#turns { border: 1px solid var(--border-color-primary); }
#turns .icon-button-wrapper:not(:has(button)) { display: none; }
#turns .message-row { margin-block: .15rem; }
#turns .placeholder { max-width: 26rem; margin: auto; }
#turns video, #turns .message img { min-width: 192px; border-radius: 6px;
  image-rendering: pixelated; }
.top { display: flex; flex-wrap: wrap; align-items: baseline; gap: .4rem 1.2rem; padding: .4rem 0; }
.top h1 { margin: 0; font-size: 1.7rem; font-weight: 700; letter-spacing: -.02em; }
.chips { display: flex; flex-wrap: wrap; gap: .4rem; }
.chips span { font-size: .8rem; padding: .1rem .6rem; border-radius: 99px;
  color: var(--body-text-color-subdued); border: 1px solid var(--border-color-primary); }
.saw h4 { margin: .2rem 0; font-size: .95rem; overflow-wrap: anywhere; }
.saw + .saw { margin-top: .9rem; padding-top: .6rem;
  border-top: 1px solid var(--border-color-primary); }
.saw p, .empty, .small, #status { font-size: .8rem; color: var(--body-text-color-subdued); }
.saw p { margin: .3rem 0 .25rem; }
.strip { display: grid; gap: 4px; grid-template-columns: repeat(var(--columns), 1fr); }
.strip figure { margin: 0; }
.strip img { width: 100%; display: block; border-radius: 4px; }
.frames img { aspect-ratio: 1; image-rendering: pixelated; }
.mels img { height: 64px; object-fit: fill; border-radius: 2px; }
.strip figcaption { font-size: .7rem; text-align: center; font-variant-numeric: tabular-nums;
  color: var(--body-text-color-subdued); }
#status { min-height: 1.2em; text-align: right; }
.small { text-align: center; padding: .6rem 0; }
.asking { gap: .5rem; }
.boxes button[aria-label^="Trim"], button[aria-label="Share"] { display: none; }
footer { margin-top: 0 !important; }
/* On a narrow window the conversation comes before what was seen and the settings. */
@media (max-width: 780px) {
  .columns > .left { display: contents !important; }
  .columns > .left > * { flex: 1 1 100%; }
  .columns > .left > .later { order: 2; }
  .columns > .right { order: 1; }
  .strip { grid-template-columns: repeat(4, 1fr); }
}
"""
"""Trimming is hidden, because Gradio fetches a program for it and the seconds to use do its work;
so is sharing, which sends files to others."""


def theme(gradio: Any) -> Any:
    """Return the page's theme.

    Args:
        gradio: the module, handed in because it is imported on demand.
    """
    soft = gradio.themes.Soft(
        primary_hue="indigo", neutral_hue="slate", radius_size="md", font=FONT, font_mono=MONO
    )
    # The names of settings are no buttons, and should not look like some.
    return soft.set(
        block_title_background_fill="none",
        block_title_background_fill_dark="none",
        block_title_text_color="*body_text_color",
        block_title_text_color_dark="*body_text_color",
        block_title_padding="0",
    )
