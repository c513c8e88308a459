"""The theme and the style sheet. They load nothing from the network."""

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
    body_text_color_subdued="*neutral_600",
    input_placeholder_color="*neutral_500",
    input_placeholder_color_dark="*neutral_400",
    block_border_width="1px",
    block_shadow="none",
    block_label_background_fill="transparent",
    block_label_border_width="0px",
    button_primary_background_fill="*primary_600",
    button_primary_background_fill_hover="*primary_500",
    button_primary_text_color="white",
    button_secondary_background_fill="white",
    button_secondary_border_color="*neutral_300",
    button_border_width="1px",
)

GONE = "sds-gone"
"""Class of hidden elements."""

CSS = """
.sds-gone { display: none !important; }
.gradio-container { max-width: 1240px !important; width: 100% !important; margin: 0 auto !important; }
.gradio-container main { width: 100%; }
.sds-head { display: flex; align-items: baseline; gap: .75rem; flex-wrap: wrap; padding: .5rem .25rem 0; }
.sds-head h1 { font-size: 1.75rem; font-weight: 700; letter-spacing: -.02em; margin: 0; }
.sds-head p { margin: 0; color: var(--body-text-color-subdued); }
[role=tab][aria-selected=true] { color: var(--primary-700) !important; }
.dark [role=tab][aria-selected=true] { color: var(--primary-300) !important; }
.picture svg, .sds-turning svg { color: #64748b !important; }
#actions:not(:has(button)) { display: none; }
#actions button { flex: 0 1 auto; }
#new-seed { border: 1px solid var(--border-color-primary); font-weight: 600; font-size: .9rem; }
.html-container { padding: 0 !important; }
#video video { display: block; width: 100%; max-height: 280px; border-radius: 12px; background: white;
               border: 1px solid var(--border-color-primary); }
.sds-title { margin: 0 0 .3rem; font-size: .9rem; font-weight: 600; }
.sds-code { margin: 0 0 .8rem; padding: .6rem .8rem; border-radius: 12px; overflow-x: auto; font-size: .8rem;
  background: var(--background-fill-secondary); color: var(--body-text-color); white-space: pre-wrap;
  overflow-wrap: anywhere; }
.sds-changed { margin: 0; font-size: .85rem; color: var(--body-text-color); }
.sds-found { margin: 0; padding: 0; list-style: none; font-size: .85rem; color: var(--body-text-color); }
.sds-found li + li { margin-top: .3rem; }
.sds-files { list-style: none; margin: 0; padding: 0; border-radius: 12px; overflow: hidden;
             border: 1px solid var(--border-color-primary); background: var(--block-background-fill); }
.sds-files li + li { border-top: 1px solid var(--border-color-primary); }
.sds-files a { display: flex; justify-content: space-between; gap: 1rem; padding: .45rem .8rem; text-decoration: none;
               color: var(--body-text-color); overflow-wrap: anywhere; }
.sds-files a:is(:hover, :focus-visible) { background: var(--background-fill-secondary); text-decoration: underline; }
.sds-files span, .sds-download span { color: var(--body-text-color-subdued); white-space: nowrap; }
.sds-download a { display: block; padding: .5rem .8rem; border-radius: 10px; background: #4f46e5; font-weight: 600;
                  color: white !important; text-align: center; text-decoration: none; }
.sds-download span { color: #e0e7ff; }

.sds-note { border-radius: 10px; padding: .6rem .85rem; line-height: 1.45; overflow-wrap: anywhere;
            border: 1px solid #fcd34d; background: #fffbeb; color: #78350f; }
.sds-note.good { border-color: #86efac; background: #f0fdf4; color: #14532d; }
.sds-note.error { border-color: #fca5a5; background: #fef2f2; color: #7f1d1d; }
.dark .sds-note { background: #422006; border-color: #92400e; color: #fde68a; }
.dark .sds-note.good { background: #052e16; border-color: #166534; color: #bbf7d0; }
.dark .sds-note.error { background: #450a0a; border-color: #991b1b; color: #fecaca; }

.sds-progress { display: flex; flex-direction: column; gap: .5rem; padding: .9rem 1rem; border-radius: 12px;
                border: 1px solid var(--border-color-primary); background: var(--block-background-fill); }
.sds-progress.plain { padding: 0; border: 0; background: none; }
.sds-progress .line { display: flex; justify-content: space-between; gap: 1rem; flex-wrap: wrap; }
.sds-progress .line b { font-weight: 600; overflow-wrap: anywhere; }
.sds-progress .line span { color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums;
                           overflow-wrap: anywhere; }
.bar { height: 8px; border-radius: 4px; overflow: hidden; background: var(--border-color-primary); }
.bar i { display: block; height: 100%; border-radius: 4px; background: #4f46e5; transition: width .8s linear; }
.sds-progress.done .bar i { background: #16a34a; }
.sds-progress.failed .bar i, .sds-progress.stopped .bar i { background: #dc2626; }
.sds-progress.cancelled .bar i, .sds-progress.paused .bar i { background: #94a3b8; }
.sds-progress.starting .bar::after { content: ""; display: block; height: 100%;
                       animation: sds-slide 1.4s linear infinite;
                       background: linear-gradient(90deg, transparent, #818cf8, transparent); }
.sds-progress.starting .bar i { display: none; }
.sds-plan { margin: 0; font-size: .85rem; color: var(--body-text-color-subdued); }
@keyframes sds-slide { from { transform: translateX(-100%); } to { transform: translateX(100%); } }

.sds-views { display: grid; grid-template-columns: repeat(4, 1fr); gap: 6px; }
.sds-views i { aspect-ratio: 1; border-radius: 10px; background-color: white; background-image: var(--strip);
               background-size: 800% 100%; border: 1px solid var(--border-color-primary); }
.sds-turning, .sds-compare video { aspect-ratio: 1; width: 100%; border-radius: 10px; background-color: white;
               border: 1px solid var(--border-color-primary); display: grid; place-items: center; color: #94a3b8; }
.sds-turning { background-image: var(--strip); background-size: 800% 100%;
               animation: sds-turn 3.2s steps(8, jump-none) infinite; }
.sds-turning svg { width: 40%; opacity: .4; }
@keyframes sds-turn { from { background-position: 0 0; } to { background-position: 100% 0; } }
.sds-caption { margin: 0 0 .35rem; font-size: .85rem; color: var(--body-text-color-subdued); }
.label-wrap { text-align: left; } /* of an accordion: a title of two lines */
.sds-objects { display: grid; grid-template-columns: repeat(auto-fill, minmax(58px, 1fr)); gap: 6px; }
.sds-objects button { all: unset; cursor: pointer; aspect-ratio: 1; border-radius: 10px; overflow: hidden;
               background: white; border: 1px solid var(--border-color-primary); }
.sds-objects button:is(:hover, :focus-visible) { border-color: #4f46e5; outline: 2px solid #4f46e5; }
.sds-objects i { display: block; width: 100%; height: 100%; background-image: var(--strip);
               background-size: var(--width) 100%; }
.sds-presets { display: flex; flex-direction: column; gap: .5rem; }
.sds-presets details { border: 1px solid var(--border-color-primary); border-radius: 12px; padding: .6rem .8rem;
               background: var(--block-background-fill); }
.sds-presets summary { cursor: pointer; font-weight: 600; font-size: .9rem; color: var(--body-text-color); }
.sds-presets summary span { color: var(--body-text-color-subdued); font-weight: 400; }
.sds-presets details > div { display: flex; flex-direction: column; gap: 6px; margin-top: .5rem; }
.sds-presets label { display: flex; gap: .7rem; align-items: center; padding: .4rem; border-radius: 10px;
               cursor: pointer; border: 1px solid var(--border-color-primary); position: relative; }
.sds-presets label:has(:checked) { border-color: #4f46e5; box-shadow: 0 0 0 1px #4f46e5; }
.sds-presets label:has(:focus-visible) { outline: 2px solid #4f46e5; outline-offset: 2px; }
.sds-presets input { position: absolute; opacity: 0; }
.sds-presets i { flex: none; width: 48px; height: 48px; border-radius: 8px; background-image: var(--strip);
               background-size: var(--width) 100%; }
.sds-presets label > span { min-width: 0; flex: 1; }
.sds-presets b { font-weight: 600; color: var(--body-text-color); }
.sds-presets small { float: right; font-size: .75rem; color: var(--body-text-color-subdued); }
.sds-presets em { display: block; font-style: normal; font-size: .8rem; line-height: 1.35;
               color: var(--body-text-color-subdued); }
.sds-drop { display: flex; flex-direction: column; align-items: center; gap: .2rem; padding: 1rem; border-radius: 12px;
            border: 2px dashed var(--border-color-primary); cursor: pointer; text-align: center; position: relative;
            color: var(--body-text-color-subdued); font-size: .85rem; }
.sds-drop b { font-weight: 600; color: var(--body-text-color); }
.sds-drop.over, .sds-drop:hover { border-color: #818cf8; }
.sds-drop:has(:focus-visible) { outline: 2px solid #4f46e5; outline-offset: 2px; }
.sds-drop input { position: absolute; opacity: 0; inset: 0; pointer-events: none; }
.sds-drop progress { width: 100%; accent-color: #4f46e5; }
.sds-own { margin: 0; font-size: .85rem; color: var(--body-text-color-subdued); }
.sds-own img { width: 100%; border-radius: 10px; background: white; border: 1px solid var(--border-color-primary); }
.sds-mask { margin: 0; font-size: .85rem; color: var(--body-text-color-subdued); }
.sds-mask > div { position: relative; margin: 0 auto; max-width: 100%; max-height: 420px; border-radius: 10px;
            overflow: hidden; border: 1px solid var(--border-color-primary); }
.sds-mask :is(img, canvas) { position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; }
.sds-mask canvas { cursor: crosshair; touch-action: none; }
.sds-mask figcaption { margin-top: .35rem; }
.sds-tools { display: flex; flex-wrap: wrap; align-items: center; gap: .4rem; font-size: .85rem;
            color: var(--body-text-color); }
.sds-tools :is(label, button) { display: flex; align-items: center; gap: .35rem; min-height: 32px; margin: 0;
            cursor: pointer; position: relative; font-size: .85rem; line-height: 1; }
.sds-tools :is(label:has([type=radio]), button) { border: 1px solid var(--border-color-primary); border-radius: 8px;
            padding: .3rem .7rem; color: var(--body-text-color); background: var(--button-secondary-background-fill); }
.sds-tools label:has(:checked) { border-color: #4f46e5; box-shadow: 0 0 0 1px #4f46e5; font-weight: 600; }
.sds-tools :is(label:has(:focus-visible), button:focus-visible) { outline: 2px solid #4f46e5; outline-offset: 2px; }
.sds-tools [type=radio] { position: absolute; opacity: 0; }
.sds-tools [type=range] { width: 90px; accent-color: #4f46e5; }
.sds-shots { display: flex; flex-wrap: wrap; gap: 6px; }
.sds-shots button { all: unset; cursor: pointer; width: 64px; height: 64px; border-radius: 10px; overflow: hidden;
            background: white; border: 1px solid var(--border-color-primary); display: grid; place-items: center; }
.sds-shots img { max-width: 100%; max-height: 100%; margin: 0; }
.sds-shots button:is([aria-pressed=true], :focus-visible) { border-color: #4f46e5; outline: 2px solid #4f46e5; }
.sds-drafts { display: grid; grid-template-columns: repeat(auto-fit, minmax(130px, 1fr)); gap: 10px; }
.sds-drafts article { border: 1px solid var(--border-color-primary); border-radius: 12px; overflow: hidden;
            background: var(--block-background-fill); display: flex; flex-direction: column; gap: .4rem;
            padding-bottom: .6rem; }
.sds-drafts .picture { aspect-ratio: 1; background: white; color: #94a3b8; display: grid; place-items: center; }
.sds-drafts .picture img { width: 100%; }
.sds-drafts .picture svg { width: 40%; opacity: .5; }
.sds-drafts p { margin: 0 .6rem; font-size: .8rem; color: var(--body-text-color-subdued); overflow-wrap: anywhere; }
.sds-drafts :is(button, .bar) { margin: auto .6rem 0; }
.sds-drafts button { border: 1px solid var(--border-color-primary); border-radius: 8px; padding: .35rem .5rem;
            font-size: .8rem; font-weight: 600; cursor: pointer; color: var(--body-text-color);
            background: var(--button-secondary-background-fill); }
.sds-drafts button.primary { background: #4f46e5; border-color: #4f46e5; color: white; }
.sds-empty { display: grid; place-items: center; text-align: center; min-height: 22rem; border-radius: 12px; gap: .5rem;
             align-content: center; border: 2px dashed var(--border-color-primary);
             color: var(--body-text-color-subdued); padding: 1rem; }
.sds-empty svg { width: 72px; height: 72px; opacity: .55; }

.sds-charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(260px, 1fr)); gap: 12px; }
.sds-chart { margin: 0; min-width: 0; }
.sds-chart figcaption { display: flex; flex-wrap: wrap; gap: .2rem .7rem; font-size: .8rem; margin-bottom: .2rem;
                        color: var(--body-text-color-subdued); }
.sds-chart figcaption b { color: var(--body-text-color); }
.sds-chart figcaption svg { display: inline-block; width: 18px; height: 4px; margin-right: .3rem;
                            vertical-align: middle; }
.sds-chart figcaption path { stroke-width: 2.5; }
.sds-chart > svg { width: 100%; display: block; }
.sds-chart polyline { fill: none; stroke-width: 1.6; stroke-linejoin: round; }
.sds-chart line { stroke: var(--border-color-primary); stroke-width: 1; }
.sds-chart text { fill: var(--body-text-color-subdued); font-size: 10px; }
.sds-chart .nothing { color: var(--body-text-color-subdued); padding: 2rem 0; text-align: center; }

.sds-table, .sds-table tr, .sds-table tbody { border: 0 !important; }
.sds-table { width: 100%; border-collapse: collapse; font-size: .88rem; margin: 0; }
.sds-table th, .sds-table td { text-align: left; padding: .35rem .6rem; vertical-align: top; border: 0;
                               border-bottom: 1px solid var(--border-color-primary); overflow-wrap: anywhere; }
.sds-table th { font-weight: 500; color: var(--body-text-color-subdued); min-width: 6rem; }
.sds-table td { font-variant-numeric: tabular-nums; }
.sds-table .head th { font-weight: 700; color: var(--body-text-color); padding-top: .9rem; }
.sds-scroll { overflow-x: auto; }
.sds-scroll .sds-table:not(.wide) :is(th, td) { overflow-wrap: break-word; word-break: normal; }
.sds-scroll .sds-table:not(.wide) td { min-width: 7rem; }
.sds-note + .sds-scroll, .sds-scroll + .sds-table { margin-top: 1rem; }

.sds-badge { display: inline-block; white-space: nowrap;
             padding: .05rem .5rem; border-radius: 999px; font-size: .75rem; font-weight: 600;
             background: #e2e8f0; color: #334155; }
.sds-badge.done { background: #dcfce7; color: #166534; }
.sds-badge.running, .sds-badge.starting, .sds-badge.exporting { background: #e0e7ff; color: #3730a3; }
.sds-badge.failed, .sds-badge.stopped, .sds-badge.damaged { background: #fee2e2; color: #991b1b; }
.sds-badge.queued, .sds-badge.paused { background: #fef3c7; color: #92400e; }

.sds-cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(250px, 1fr)); gap: 14px; }
.sds-card { display: flex; flex-direction: column; border-radius: 12px; overflow: hidden; min-width: 0;
            border: 1px solid var(--border-color-primary); background: var(--block-background-fill); }
.sds-card .picture { all: unset; cursor: pointer; display: grid; place-items: center; height: 150px; background: white;
                     color: #94a3b8; }
.sds-card .picture:focus-visible { outline: 2px solid #4f46e5; outline-offset: -2px; }
.sds-card .picture img { height: 100%; margin: 0; }
.sds-card .picture svg { width: 56px; opacity: .5; }
.sds-card .text { padding: .7rem .85rem .85rem; display: flex; flex-direction: column; gap: .35rem; flex: 1; }
.sds-card b { font-weight: 600; overflow: hidden; display: -webkit-box; -webkit-line-clamp: 2;
              -webkit-box-orient: vertical; overflow-wrap: anywhere; }
.sds-card p { margin: 0; font-size: .8rem; color: var(--body-text-color-subdued); }
.sds-card .about { overflow: hidden; display: -webkit-box; -webkit-line-clamp: 2; -webkit-box-orient: vertical;
                   overflow-wrap: anywhere; }
.sds-card .actions { display: flex; flex-wrap: wrap; gap: .35rem; margin-top: auto; padding-top: .3rem; }
.sds-card .actions button { margin: 0; line-height: 1.3;
             border: 1px solid var(--border-color-primary); border-radius: 8px; padding: .25rem .6rem;
             font-size: .8rem; font-weight: 600; cursor: pointer; background: var(--button-secondary-background-fill);
             color: var(--body-text-color); }
.sds-card .actions button:hover { border-color: #818cf8; }
.sds-card .actions .primary { background: #4f46e5; border-color: #4f46e5; color: white; }
.sds-card .actions .delete { color: #b91c1c; }
.dark .sds-card .actions .delete { color: #fecaca; }

.sds-compare { table-layout: fixed; width: auto; }
.sds-compare tr > :first-child { width: 9rem; }
.sds-compare td { width: 15rem; }
.sds-compare article { display: flex; flex-direction: column; gap: .35rem; min-width: 0; }
.sds-compare b { font-weight: 600; overflow-wrap: anywhere; }
.sds-compare p { margin: 0; font-size: .8rem; color: var(--body-text-color-subdued); }
.sds-compare .about { overflow: hidden; display: -webkit-box; -webkit-line-clamp: 3; -webkit-box-orient: vertical;
                      overflow-wrap: anywhere; }
@media (max-width: 640px) { .sds-views { gap: 4px; } .sds-empty { min-height: 12rem; }
                            #live .sv:not(:fullscreen, .sv-full) .sv-stage { height: auto; aspect-ratio: 1; }
                            #actions { gap: 6px; } #actions button { min-width: 0 !important; flex: 1 1 auto; } }
@media (pointer: coarse) { #actions button, .sds-tools :is(button, label) { min-height: 44px; }
                           .sv .sv-icons button.sv-icon { width: 44px; height: 44px; } }
@media (prefers-reduced-motion: reduce) { .bar i, .bar::after, .sds-turning { animation: none !important;
                                          transition: none; } }
"""
