"""Looks: a theme and a style sheet that load nothing from the network."""

from gradio.themes import Base, LocalFont

THEME = Base(
    primary_hue="indigo",
    secondary_hue="indigo",
    neutral_hue="slate",
    radius_size="lg",
    font=[LocalFont("IBM Plex Sans", weights=(400, 700)), "ui-sans-serif", "system-ui", "sans-serif"],
    font_mono=[LocalFont("IBM Plex Mono"), "ui-monospace", "monospace"],
).set(
    body_background_fill="*neutral_50",
    block_border_width="1px",
    block_shadow="none",
    block_label_background_fill="transparent",
    block_label_border_width="0px",
    button_primary_background_fill="*primary_600",
    button_primary_background_fill_hover="*primary_500",
    button_primary_text_color="white",
    button_secondary_background_fill="white",
    button_secondary_border_color="*neutral_300",
)

GONE = "sds-gone"
"""Class of what is there but not seen."""

CSS = """
.sds-gone { display: none !important; }
.gradio-container { max-width: 1240px !important; margin: 0 auto !important; }
.sds-head { display: flex; align-items: baseline; gap: .75rem; flex-wrap: wrap; padding: .5rem .25rem 0; }
.sds-head h1 { font-size: 1.75rem; font-weight: 700; letter-spacing: -.02em; margin: 0; }
.sds-head p { margin: 0; color: var(--body-text-color-subdued); }
#actions { flex-wrap: nowrap; }
#cancel { max-width: 9rem; }
#new-seed { border: 1px solid var(--border-color-primary); font-weight: 600; font-size: .9rem; }
.html-container { padding: 0 !important; }
#files td:has(.label-clear-button) { display: none; }

.sds-note { border-radius: 10px; padding: .6rem .85rem; line-height: 1.45; overflow-wrap: anywhere;
            border: 1px solid #fcd34d; background: #fffbeb; color: #78350f; }
.sds-note.error { border-color: #fca5a5; background: #fef2f2; color: #7f1d1d; }
.dark .sds-note { background: #422006; border-color: #92400e; color: #fde68a; }
.dark .sds-note.error { background: #450a0a; border-color: #991b1b; color: #fecaca; }

.sds-progress { display: flex; flex-direction: column; gap: .5rem; padding: .9rem 1rem; border-radius: 12px;
                border: 1px solid var(--border-color-primary); background: var(--block-background-fill); }
.sds-progress .line { display: flex; justify-content: space-between; gap: 1rem; flex-wrap: wrap; }
.sds-progress .line b { font-weight: 600; overflow-wrap: anywhere; }
.sds-progress .line span { color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums; }
.sds-progress .bar { height: 8px; border-radius: 4px; overflow: hidden; background: var(--border-color-primary); }
.sds-progress .bar i { display: block; height: 100%; border-radius: 4px; background: #4f46e5;
                       transition: width .8s linear; }
.sds-progress.done .bar i { background: #16a34a; }
.sds-progress.failed .bar i, .sds-progress.stopped .bar i { background: #dc2626; }
.sds-progress.cancelled .bar i, .sds-progress.paused .bar i { background: #94a3b8; }
.sds-progress.starting .bar i { width: 100% !important; background: linear-gradient(90deg, transparent, #818cf8,
                       transparent); animation: sds-slide 1.4s linear infinite; }
@keyframes sds-slide { from { transform: translateX(-100%); } to { transform: translateX(100%); } }
@media (prefers-reduced-motion: reduce) { .sds-progress .bar i { animation: none !important; transition: none; } }

.sds-views { display: grid; grid-template-columns: repeat(4, 1fr); gap: 6px; }
.sds-views i { aspect-ratio: 1; border-radius: 10px; background-color: white; background-image: var(--strip);
               background-size: 800% 100%; border: 1px solid var(--border-color-primary); }
.sds-empty { display: grid; place-items: center; text-align: center; min-height: 22rem; border-radius: 12px; gap: .5rem;
             align-content: center; border: 2px dashed var(--border-color-primary);
             color: var(--body-text-color-subdued); padding: 1rem; }
.sds-empty svg { width: 72px; height: 72px; opacity: .55; }
@media (max-width: 640px) { .sds-views { gap: 4px; } .sds-empty { min-height: 12rem; } }
"""
