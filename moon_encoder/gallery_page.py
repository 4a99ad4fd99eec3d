"""The frame of the recall gallery: styles and keys; @NAME@ is filled in by moon_encoder.gallery."""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Recall: @title@</title>
<style>
:root{color-scheme:light dark;--bg:#fafaf8;--card:#fff;--ink:#1c1c1a;--soft:#66665f;--line:#deded6;--yes:#0a6b3d;
--yesbg:#e3f4ea;--no:#a32020;--focus:#2457c5}
@media (prefers-color-scheme:dark){:root{--bg:#151614;--card:#1f211e;--ink:#ecece6;--soft:#a3a39a;--line:#393b36;
--yes:#7ddba5;--yesbg:#14301f;--no:#ff9c92;--focus:#8fb2ff}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1240px;padding:1.2rem 1rem 4rem;background:var(--bg);color:var(--ink);
font:15px/1.45 system-ui,sans-serif}
h1{font-size:1.4rem;margin:0;overflow-wrap:anywhere}h2{margin:2.2rem 0 .2rem}h3{margin:1.6rem 0 .6rem}
small,p{color:var(--soft)}h3 small{font-weight:400;font-size:.8rem}
nav{position:sticky;top:0;z-index:1;display:flex;flex-wrap:wrap;gap:.4rem 1rem;padding:.5rem 0;background:var(--bg);
border-bottom:1px solid var(--line)}nav a{color:var(--focus)}
nav span{margin-left:auto;color:var(--soft);font-size:.85rem}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:.15rem .9rem .15rem 0;text-align:right;white-space:nowrap}th:first-child{text-align:left}
tbody th{font-weight:500}thead th{color:var(--soft);font-weight:500;border-bottom:1px solid var(--line)}
.filter{display:flex;flex-wrap:wrap;gap:.5rem 1.5rem}
article{background:var(--card);border:1px solid var(--line);border-radius:10px;
padding:.6rem .8rem .8rem;margin:0 0 .8rem}
article:focus-visible,a:focus-visible,select:focus-visible,input:focus-visible{outline:3px solid var(--focus);
outline-offset:2px}
article header{display:flex;justify-content:space-between;gap:1rem;font-weight:600;margin-bottom:.4rem}
article header span{color:var(--soft);font-weight:400}
.row,.pair{display:flex;gap:.5rem;align-items:start}
.pair{padding-right:.6rem;border-right:1px solid var(--line);flex:none;width:252px}
.near{display:grid;grid-template-columns:repeat(8,minmax(0,1fr));gap:.4rem;flex:1;align-items:start}
figure{margin:0;min-width:0;padding:4px;border:2px solid transparent;border-radius:8px}.pair figure{width:122px}
figcaption{display:flex;gap:.3em;font-size:.78rem;white-space:nowrap;align-items:baseline}
figcaption span{margin-left:auto;font-variant-numeric:tabular-nums;color:var(--soft)}
figcaption i{font-style:normal;font-weight:700}figcaption em{position:absolute;width:1px;height:1px;overflow:hidden;
clip-path:inset(50%)}
.yes{border-color:var(--yes);background:var(--yesbg)}.yes i{color:var(--yes)}
.no{border:2px solid var(--line)}.no i{color:var(--no)}.target{border:2px dashed var(--yes)}
img{display:block;margin:2px auto;max-width:100%;height:auto;border-radius:4px}
.title{display:-webkit-box;-webkit-line-clamp:2;-webkit-box-orient:vertical;overflow:hidden;font-size:.75rem;
overflow-wrap:anywhere}
.query .title{-webkit-line-clamp:4}.query .title:only-of-type{font-size:.85rem}[hidden]{display:none}
.none{display:grid;place-items:center;min-height:5.5rem;margin:2px 0;border:1px dashed var(--line);border-radius:4px;
font-size:.75rem;color:var(--soft)}
@media (max-width:900px){.row{flex-direction:column}.pair{width:auto;border-right:0;padding:0 0 .5rem;
border-bottom:1px solid var(--line)}.near{grid-template-columns:repeat(auto-fill,minmax(84px,1fr))}
nav span{display:none}th,td{padding-right:.6rem;font-size:.85rem}}
</style></head><body>
<h1>@title@</h1><p>@facts@</p>
<nav aria-label="Tasks">@links@<span>j and k move from query to query</span></nav>
<main>@sections@</main>
<script>
for (const section of document.querySelectorAll("section")) {
  const [kind, wrong] = [section.querySelector("select"), section.querySelector("input")];
  const apply = () => {
    for (const card of section.querySelectorAll("article"))
      card.hidden = (kind.value && card.dataset.category !== kind.value)
        || (wrong.checked && !("wrong" in card.dataset));
  };
  kind.addEventListener("change", apply);
  wrong.addEventListener("change", apply);
}
document.addEventListener("keydown", (event) => {
  const step = {j: 1, k: -1}[event.key];
  if (!step || event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select, input")) return;
  const cards = [...document.querySelectorAll("article:not([hidden])")];
  const at = cards.indexOf(document.activeElement);
  const next = cards[Math.min(Math.max(at + step, 0), cards.length - 1)];
  next.focus({preventScroll: true});
  next.scrollIntoView({block: "center"});
});
</script></body></html>
"""
