"""The looks of every page of ours: one style sheet for laptop and phone, light and dark, screen and paper."""

LIGHT = """--bg:#f5f4f0;--card:#fffefc;--ink:#1c2029;--dim:#565d6d;--line:#e1dfd7;--focus:#3246c8;
--s0:#3246c8;--s1:#b4460a;--s2:#0a7566;--s3:#872d9d;--s4:#836000;--s5:#ae1758;--total:#8d94a4;--shade:#eceae3;--edge:#1c202938"""
DARK = """--bg:#10131a;--card:#181c25;--ink:#e9ebf1;--dim:#a4abba;--line:#2d3341;--focus:#9fb0ff;
--s0:#95a7ff;--s1:#ffa26a;--s2:#50d2bf;--s3:#dca2f3;--s4:#e7c15a;--s5:#ff92b9;--total:#6d7688;--shade:#222733;--edge:#000a"""

STYLE = (
    f":root{{color-scheme:light dark;{LIGHT}}}"
    f"@media (prefers-color-scheme:dark){{:root{{{DARK}}}}}"
    """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;scroll-padding-top:1rem}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
"Noto Sans","DejaVu Sans",sans-serif}
a{color:var(--focus)}
:focus-visible{outline:3px solid var(--focus);outline-offset:2px;border-radius:4px}
.skip{position:absolute;left:-999px}.skip:focus{left:1rem;top:1rem;background:var(--card);padding:.5rem 1rem;z-index:9}
.sheet{max-width:1268px;margin:0 auto;padding:2rem 20px 4rem;display:grid;grid-template-columns:minmax(0,1fr);
gap:0 36px}
header{margin-bottom:1.4rem}
.kicker{display:flex;align-items:center;gap:.55rem;margin:0 0 .7rem;color:var(--dim);font-size:.8rem;
letter-spacing:.09em;text-transform:uppercase}
.kicker svg{width:22px;height:22px}.kicker path{fill:var(--s0)}
h1{font-size:clamp(1.7rem,4.2vw,2.5rem);line-height:1.14;letter-spacing:-.022em;margin:0;overflow-wrap:anywhere}
h2{font-size:1.42rem;letter-spacing:-.012em;line-height:1.25;margin:0 0 .35rem}
h3{font-size:1.02rem;line-height:1.35;margin:0}
h4{font-size:.93rem;margin:0}
p{margin:.5em 0;max-width:74ch}
.dim,.note,figcaption p{color:var(--dim)}.note,figcaption p{font-size:.87rem;line-height:1.45;margin:.2rem 0 0}
nav ul{list-style:none;margin:0;padding:0;display:flex;gap:.35rem;overflow-x:auto}
nav a{display:block;white-space:nowrap;padding:.3rem .7rem;border-radius:999px;text-decoration:none;color:var(--ink);
border:1px solid var(--line);background:var(--card);font-size:.88rem}
nav a:hover{border-color:var(--focus)}
section{margin:2.6rem 0 0}
section>.parts{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));gap:14px;margin-top:1rem}
.parts>*{grid-column:1/-1;min-width:0}.parts>.half{grid-column:auto}
.panel{background:var(--card);border:1px solid var(--line);border-radius:14px;padding:16px 18px;margin:0}
.parts h3 a{text-decoration:none}.parts h3 a:hover{text-decoration:underline}
.parts>.prose{font-size:1rem}.prose p:first-child{margin-top:0}.prose p:last-child{margin-bottom:0}
.said{margin:.2rem 0 0;padding:0 0 0 1.15rem}.said li{margin:.4rem 0;max-width:78ch}.said li::marker{color:var(--s0)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(190px,1fr));gap:12px;margin:1.2rem 0 .6rem}
@media (min-width:601px){.cards:has(>:nth-child(5)){grid-template-columns:repeat(3,minmax(0,1fr))}}
.card{background:var(--card);border:1px solid var(--line);border-radius:14px;padding:13px 15px;display:flex;
flex-direction:column;
justify-content:space-between}
.card dt{color:var(--dim);font-size:.84rem;line-height:1.35;overflow-wrap:anywhere}
.card b{display:block;color:var(--ink);font-weight:600;margin-bottom:.15rem}
.card dd{margin:.15rem 0 0}.card .big{font-size:1.72rem;font-weight:650;letter-spacing:-.025em;line-height:1.2;
font-variant-numeric:tabular-nums}.card .reach{display:block;color:var(--dim);font-size:.84rem;
font-variant-numeric:tabular-nums}
figure{margin:0}figcaption{margin-bottom:.55rem}
svg{display:block;width:100%;height:auto;overflow:visible}
svg.narrow{display:none}
svg text{font-family:inherit;font-size:12px;font-variant-numeric:tabular-nums}
svg text[font-size="11"]{font-size:11px}
.ink,.label{fill:var(--ink)}svg .ink,svg .label{paint-order:stroke;stroke:var(--card);stroke-width:3.5px;
stroke-linejoin:round}svg .dim{fill:var(--dim)}.strong{font-weight:650}
.grid{stroke:var(--line);stroke-width:1}.zero{stroke:var(--dim);stroke-width:1.2;fill:none}
.join{stroke:var(--dim);stroke-width:1;stroke-dasharray:2 2}
.s0{--c:var(--s0)}.s1{--c:var(--s1)}.s2{--c:var(--s2)}.s3{--c:var(--s3)}.s4{--c:var(--s4)}.s5{--c:var(--s5)}
.line{fill:none;stroke:var(--c);stroke-width:2.1;stroke-linejoin:round;stroke-linecap:round}
.dashed{stroke-dasharray:5 5}.band{fill:var(--c);opacity:.15}
.mark{fill:var(--c);stroke:var(--card);stroke-width:1.1}
.whisker{stroke:var(--c);stroke-width:1.6;opacity:.75;stroke-linecap:round}.wide-stroke{stroke-width:2.6;opacity:.62}
.whisker-ink{stroke:var(--ink);stroke-width:1.6;stroke-linecap:round}
.total{fill:var(--total)}.gain{fill:var(--s2)}.loss{fill:var(--s1)}
.key{list-style:none;display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;margin:0 0 .5rem;padding:0;font-size:.85rem}
.key li{display:flex;align-items:center;gap:.35rem;overflow-wrap:anywhere}.key svg{width:14px;height:12px;flex:none}
details{margin-top:.6rem;font-size:.86rem}
summary{cursor:pointer;color:var(--dim);width:fit-content}summary:hover{color:var(--ink)}
.scroll{background:linear-gradient(90deg,var(--card) 40%,transparent) 0/36px 100% no-repeat local,
linear-gradient(270deg,var(--card) 40%,transparent) 100%/36px 100% no-repeat local,
linear-gradient(90deg,var(--edge),transparent) 0/11px 100% no-repeat,
linear-gradient(270deg,var(--edge),transparent) 100%/11px 100% no-repeat;
overflow-x:auto;margin-top:.5rem;max-height:26rem;overflow-y:auto}.scroll.whole{max-height:none}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.87rem;line-height:1.4;
min-width:min(100%,24rem)}
th,td{padding:.32rem .65rem;text-align:right;white-space:nowrap;
border-bottom:1px solid var(--line);vertical-align:baseline}
th:first-child,td:first-child{text-align:left;padding-left:0;white-space:normal}
tbody th{min-width:clamp(7rem,16vw,12rem)}.brief tbody th{min-width:0;white-space:nowrap}
.words{text-align:left!important;white-space:normal;min-width:6.5rem;overflow-wrap:break-word}
td:last-child,th:last-child{padding-right:.2rem}
thead th{color:var(--dim);font-weight:600;vertical-align:bottom;white-space:normal}tbody th{font-weight:500}
tr.quiet>*{color:var(--dim)}td.found{color:var(--s0);font-weight:650}td small,th small{display:block;font-weight:400;
color:var(--dim);white-space:nowrap}
pre{overflow-x:auto;font-size:.8rem;line-height:1.45;margin:.5rem 0 0}code{font-size:.9em;overflow-wrap:anywhere}
.tiles{list-style:none;display:grid;grid-template-columns:repeat(auto-fill,minmax(92px,1fr));gap:10px;margin:.7rem 0 0;
padding:0}
.tiles li,.tile{min-width:0;font-size:.75rem;line-height:1.3}
.tiles img,.tile img,.none{display:block;width:100%;height:104px;object-fit:contain;border-radius:8px;
background:var(--shade)}
.none{display:grid;place-items:center;color:var(--dim)}
.name{display:-webkit-box;-webkit-line-clamp:2;-webkit-box-orient:vertical;overflow:hidden;overflow-wrap:anywhere;
margin-top:.25rem}
.bar{display:grid;grid-template-columns:3.3em 1fr;align-items:center;gap:.3em;font-variant-numeric:tabular-nums;
margin-top:.2rem}
.bar i{display:block;height:6px;border-radius:3px;background:var(--shade);overflow:hidden}
.bar b{display:block;height:100%;background:var(--c)}
.visually{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap}
.dot{width:10px;height:10px;border-radius:3px;background:var(--c);flex:none}
.target-tile img{outline:2px solid var(--s0);outline-offset:1px}
.near{display:grid;grid-template-columns:104px minmax(0,1fr);gap:14px;border-top:1px solid var(--line);
padding-top:.8rem;margin-top:.8rem}.near:first-of-type{border-top:0}.near .tiles{margin:0}
.store+.store{margin-top:.7rem}.store h4{color:var(--dim);font-weight:600;margin-bottom:.3rem;font-size:.82rem}
footer{margin-top:3rem;color:var(--dim);font-size:.85rem;border-top:1px solid var(--line);padding-top:1rem}
@media (min-width:1180px){.sheet{grid-template-columns:178px minmax(0,1fr)}header,.single main{grid-column:1/-1}
.single{max-width:1054px}
nav{position:sticky;top:1.4rem;align-self:start;max-height:calc(100vh - 2.8rem);overflow-y:auto;padding:2px}
nav ul{display:block}nav li{margin-bottom:.1rem}
nav a{white-space:normal;overflow-wrap:anywhere;border-color:transparent;background:none;border-radius:8px;
padding:.32rem .6rem}
nav a:hover{background:var(--shade);border-color:transparent}
main>section:first-child{margin-top:0}}
@media (max-width:860px){section>.parts{grid-template-columns:minmax(0,1fr)}}
@media (max-width:600px){.sheet{padding:1.1rem 12px 3rem}.panel{padding:13px 12px}svg.wide{display:none}
svg.narrow{display:block}section{margin-top:2.1rem}.near{grid-template-columns:minmax(0,1fr)}
.cards{grid-template-columns:repeat(2,minmax(0,1fr))}.card .big{font-size:1.35rem}.card{padding:11px 12px}}
"""
    f"@media print{{:root{{{LIGHT};--bg:#fff;--card:#fff}}"
    """
@page{margin:14mm}body,.parts>.prose{font-size:10.5pt}nav,.skip,details:not([open]){display:none}.sheet{display:block;padding:0}
figure,.card,tr,.near,.store,.user{break-inside:avoid}h2,h3{break-after:avoid}section{margin-top:1.6rem}
.scroll{max-height:none;overflow:visible;background:none}table{font-size:.7rem;min-width:0}th,td{padding:.2rem .3rem}
th,td,td small,th small{white-space:normal}section>.parts{grid-template-columns:repeat(2,minmax(0,1fr))}
tbody th,.words{min-width:4.5rem}.brief tbody th{white-space:normal}td small{font-size:.62rem}
svg.wide,.half svg.narrow{display:block}svg.narrow,.half svg.wide{display:none}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""
)
