"use strict";
// Everything here shows text through textContent: what a model wrote is never markup.

const make = (tag, attributes = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
};

// Contents: mark the section being read.
{
  const links = new Map([...document.querySelectorAll(".contents a")].map((link) => [link.hash.slice(1), link]));
  const sections = [...links.keys()].map((id) => document.getElementById(id)).filter(Boolean);
  const mark = () => {
    const last = sections.filter((section) => section.getBoundingClientRect().top < innerHeight * 0.4).pop() || sections[0];
    for (const [id, link] of links) {
      if (id !== last.id) link.removeAttribute("aria-current");
      else if (!link.hasAttribute("aria-current")) {
        link.setAttribute("aria-current", "true");
        const list = link.closest("nav");
        list.scrollLeft = link.offsetLeft - list.clientWidth / 2;
      }
    }
  };
  addEventListener("scroll", mark, { passive: true });
  mark();
}

// Tokens: one stop for the Tab key, arrow keys inside.
for (const tokens of document.querySelectorAll(".tokens")) {
  const all = [...tokens.children];
  all.forEach((token, index) => token.setAttribute("tabindex", index ? "-1" : "0"));
  const go = (to) => {
    tokens.querySelector('[tabindex="0"]').setAttribute("tabindex", "-1");
    all[to].setAttribute("tabindex", "0");
    all[to].setAttribute("aria-label", `${all[to].textContent}, ${all[to].dataset.d} nats`);
    all[to].focus();
  };
  tokens.addEventListener("keydown", (event) => {
    const at = all.indexOf(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1 }[event.key];
    if (at < 0 || to === undefined || !all[to]) return;
    event.preventDefault();
    go(to);
  });
  // Near the right edge the value opens to the left.
  const place = (event) => {
    if (all.includes(event.target)) event.target.classList.toggle("flip", event.target.getBoundingClientRect().left > innerWidth - 110);
  };
  tokens.addEventListener("pointerover", place);
  tokens.addEventListener("focusin", place);
  tokens.addEventListener("click", (event) => {
    const at = all.indexOf(event.target);
    if (at >= 0) go(at);
  });
}

// Tables that sort by a click on their heads.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  table.tHead.addEventListener("click", (event) => {
    const head = event.target.closest("button")?.closest("th");
    if (!head) return;
    const column = heads.indexOf(head);
    const sign = head.getAttribute("aria-sort") === "descending" ? 1 : -1;
    for (const other of heads) if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    const value = (row) => row.cells[column].dataset.value;
    const compare = (a, b) => (isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b);
    table.tBodies[0].append(...[...table.tBodies[0].rows].sort((a, b) => sign * compare(value(a), value(b))));
  });
}

// Plots: the values under the pointer; by keyboard, the arrow keys move along the axis.
{
  const readout = make("div", { class: "readout", role: "status", hidden: true });
  document.body.append(readout);
  const draw = (tag, attributes) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    return node;
  };
  const inWords = (value, percent) => (percent ? `${(100 * value).toFixed(1)} %` : String(+value.toPrecision(4)));

  for (const plot of document.querySelectorAll("svg[data-values]")) {
    const { x, y, axis, percent, curves } = JSON.parse(plot.dataset.values);
    const at = [...new Set(curves.flatMap((curve) => curve.points.map((point) => point[0])))].sort((a, b) => a - b);
    const nearest = (wanted) => at.reduce((best, one, index) => (Math.abs(one - wanted) < Math.abs(at[best] - wanted) ? index : best), 0);
    const place = ([offset, scale], value) => offset + scale * value;
    const [width, height] = plot.getAttribute("viewBox").split(" ").slice(2).map(Number);
    const marks = draw("g", { class: "marks", "aria-hidden": "true" });
    plot.append(marks);
    plot.setAttribute("tabindex", "0");
    let current = at.length - 1;

    const hide = () => {
      marks.replaceChildren();
      readout.hidden = true;
    };
    const show = (index) => {
      current = index;
      const wanted = at[index];
      // A run logged elsewhere may have no point just here: its nearest within a fiftieth of the axis stands for it.
      const reach = (at.at(-1) - at[0]) / 50;
      const points = curves.map((curve) => {
        const [first, ...others] = curve.points;
        const point = others.reduce((best, one) => (Math.abs(one[0] - wanted) < Math.abs(best[0] - wanted) ? one : best), first);
        return { curve, point };
      });
      const near = points.filter(({ point }) => point && Math.abs(point[0] - wanted) <= reach);
      const line = place(x, wanted);
      marks.replaceChildren(draw("line", { x1: line, x2: line, y1: 0, y2: height }));
      for (const { curve, point } of near) {
        marks.append(draw("circle", { class: `run-${curve.run}`, cx: place(x, point[0]), cy: place(y, point[1]), r: 4 }));
      }
      const rows = near.map(({ curve, point }) => {
        const interval = point.length > 3 ? ` [${inWords(point[2], percent)}, ${inWords(point[3], percent)}]` : "";
        return make("li", { class: `chip run-${curve.run}` }, `${curve.label} ${inWords(point[1], percent)}${interval}`);
      });
      readout.replaceChildren(make("strong", {}, `${axis} ${wanted.toLocaleString("en")}`), make("ul", {}, ...rows));
      readout.hidden = false;
      // Beside the line, on the side where there is room.
      const box = plot.getBoundingClientRect();
      const middle = box.left + (line / width) * box.width;
      const left = middle + 12 + readout.offsetWidth > innerWidth ? middle - 12 - readout.offsetWidth : middle + 12;
      readout.style.left = `${Math.max(4, left) + scrollX}px`;
      readout.style.top = `${box.top + scrollY}px`;
    };

    const follow = (event) => {
      const box = plot.getBoundingClientRect();
      const units = ((event.clientX - box.left) / box.width) * width;
      if (at.length) show(nearest((units - x[0]) / x[1]));
    };
    plot.addEventListener("pointermove", follow);
    plot.addEventListener("pointerdown", follow);
    plot.addEventListener("pointerleave", hide);
    plot.addEventListener("focus", () => at.length && show(current));
    plot.addEventListener("blur", hide);
    plot.addEventListener("keydown", (event) => {
      const to = { ArrowRight: current + 1, ArrowLeft: current - 1, Home: 0, End: at.length - 1 }[event.key];
      if (event.key === "Escape") hide();
      if (to === undefined || !(to in at)) return;
      event.preventDefault();
      show(to);
    });
  }
}

for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
    const text = button.previousElementSibling;
    try {
      await navigator.clipboard.writeText(text.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(text); // no clipboard from this page: leave it selected
      button.textContent = "Selected";
    }
  });
}

// Completions.
const data = document.getElementById("browser-data");
if (data) {
  const parts = JSON.parse(data.textContent);
  const form = document.getElementById("filters");
  const cards = document.getElementById("cards");
  const found = document.getElementById("found");
  const more = document.getElementById("show-more");
  const field = (name) => form.elements.namedItem(name);
  const STEP = 8;
  const FEW = 3;
  const GLYPHS = { correct: "✓", wrong: "✗", unparsed: "?", timeout: "…" };
  let matches = [];
  let shown = 0;

  const isPassed = (row) => (row.v === "no verdict" ? row.r > 0.5 : row.v === "correct");
  const count = (rows) => rows.reduce((sum, row) => sum + (row.k || 1), 0);
  const ofGroup = (visit, group) => (visit ? visit.rows.filter((row) => row.g === group) : []);
  const rate = (rows) => (rows.length ? count(rows.filter(isPassed)) / count(rows) : NaN);
  const change = (card) => rate(ofGroup(card.visits.at(-1), "a")) - rate(ofGroup(card.visits[0], "a"));
  const uplift = (card) => rate(ofGroup(card.visits[0], "g")) - rate(ofGroup(card.visits[0], "a"));
  const ORDERS = { gain: change, loss: (card) => -change(card), uplift };

  const fill = (select, values) => {
    const before = select.value;
    select.replaceChildren(...values.map(([value, label]) => make("option", { value }, label)));
    if (values.some(([value]) => value === before)) select.value = before;
    select.closest("label").hidden = values.length < 2;
  };

  // A text, of a long one the beginning and a button for the rest.
  const clamped = (content, lines) => {
    const text = make("p", { class: "text", dir: "auto" }, content);
    if (content.length <= 70 * lines && content.split("\n").length <= lines) return [text];
    text.classList.add("clamp");
    text.style.setProperty("--lines", lines);
    const button = make("button", { class: "more", type: "button", "aria-expanded": "false" }, "Show all of it");
    button.addEventListener("click", () => {
      const open = !text.classList.toggle("clamp");
      button.setAttribute("aria-expanded", open);
      button.textContent = open ? "Show less" : "Show all of it";
    });
    return [text, button];
  };

  const completion = (row) => {
    const kind = Object.hasOwn(GLYPHS, row.v) ? row.v : "other";
    const meta = make("p", { class: "meta" }, make("strong", {}, `${kind === "other" ? "·" : GLYPHS[kind]} ${row.v}`));
    if (row.k) meta.append(make("span", {}, `× ${row.k}`));
    if (row.x) meta.append(make("span", {}, `answer ${row.x}`));
    if (row.r !== undefined) meta.append(make("span", {}, `reward ${row.r}`));
    if (row.n) meta.append(make("span", {}, `${row.n} tokens`));
    if (row.c) meta.append(make("span", {}, "cut off"));
    return make("div", { class: `completion v-${kind}` }, meta, ...clamped(row.t, 6));
  };

  // One completion of every verdict first, then the others.
  const variety = (rows) => {
    const first = rows.filter((row, index) => rows.findIndex((other) => other.v === row.v) === index);
    return [...first, ...rows.filter((row) => !first.includes(row))];
  };

  const side = (visit, group, keep, when) => {
    const all = ofGroup(visit, group);
    const rows = all.filter(keep);
    if (!rows.length) return null;
    const name = group === "a" ? "autonomous" : "guided";
    const right = `${count(all.filter(isPassed))} of ${count(all)} right`;
    const node = make("div", { class: "side" }, make("p", {}, make("strong", {}, name), `, ${when}: ${right}`));
    const ordered = variety(rows);
    node.append(...ordered.slice(0, FEW).map(completion));
    if (ordered.length > FEW) {
      const button = make("button", { class: "more", type: "button" }, `Show ${ordered.length - FEW} more`);
      button.addEventListener("click", () => button.replaceWith(...ordered.slice(FEW).map(completion)));
      node.append(button);
    }
    return node;
  };

  const draw = ({ card, keep, groups }) => {
    const head = make("header", {}, make("h4", {}, card.id), card.f ? make("span", { class: "quiet" }, card.f) : null);
    const node = make("article", { class: "card" }, head);
    if (card.p) node.append(...clamped(card.p, 12));
    if (card.s) {
      node.append(make("details", {}, make("summary", {}, "Prompt with the strategy"), make("p", { class: "text block", dir: "auto" }, card.s)));
    }
    // Groups side by side, a row for each visit; where there is one group only, its visits side by side.
    const which = (index) => (card.visits.length < 2 ? "" : index ? "last, " : "first, ");
    const lines = card.visits.map((visit, index) =>
      groups.map((group) => side(visit, group, keep, `${which(index)}step ${visit.step}`)).filter(Boolean),
    );
    const grouped = lines.some((line) => line.length > 1) ? lines : [lines.flat()];
    node.append(...grouped.filter((line) => line.length).map((line) => make("div", { class: "sides" }, ...line)));
    return node;
  };

  const showMore = () => {
    const next = matches.slice(shown, shown + STEP).map(draw);
    cards.append(...next);
    shown += next.length;
    more.hidden = shown >= matches.length;
    return next;
  };

  // Where training met every problem once, only an evaluation has a before and an after.
  const hint = (all) => {
    const evaluations = parts.filter((one) => String(one.run) === field("run").value && one.source !== "training");
    if (field("source").value !== "training" || !evaluations.length || all.some((card) => card.visits.length > 1)) return "";
    return ` Training met each of them once; for before and after, see ${evaluations.map((one) => one.source).join(", ")} under From.`;
  };

  const update = () => {
    const part = parts.find((one) => String(one.run) === field("run").value && one.source === field("source").value);
    const [family, group, verdict, order] = ["family", "group", "verdict", "order"].map((name) => field(name).value);
    const wanted = field("find").value.trim().toLowerCase();
    const all = part ? part.cards : [];
    const groups = group ? [group] : ["a", "g"];
    matches = [];
    let completions = 0;
    for (const card of all) {
      if (family && card.f !== family) continue;
      const inCard = wanted && [card.id, card.p, card.s].some((text) => text.toLowerCase().includes(wanted));
      const keep = (row) =>
        groups.includes(row.g) && (!verdict || row.v === verdict) && (!wanted || inCard || row.t.toLowerCase().includes(wanted));
      const kept = card.visits.reduce((sum, visit) => sum + count(visit.rows.filter(keep)), 0);
      if (!kept) continue;
      completions += kept;
      matches.push({ card, keep, groups });
    }
    if (order) {
      const key = ({ card }) => (isNaN(ORDERS[order](card)) ? -Infinity : ORDERS[order](card));
      const keys = new Map(matches.map((match) => [match, key(match)]));
      matches.sort((a, b) => (keys.get(b) === keys.get(a) ? 0 : keys.get(b) - keys.get(a)));
    }
    const [some, every, rows] = [matches.length, all.length, completions].map((number) => number.toLocaleString("en"));
    found.textContent = `${some} of ${every} problems, ${rows} completions.${hint(all)}`;
    cards.replaceChildren();
    shown = 0;
    showMore();
  };

  const choices = () => {
    const ofRun = parts.filter((one) => String(one.run) === field("run").value);
    fill(field("source"), ofRun.map((one) => [one.source, one.source]));
    const part = ofRun.find((one) => one.source === field("source").value);
    const families = [...new Set((part ? part.cards : []).map((card) => card.f))].sort();
    fill(field("family"), families.length > 1 ? [["", "all"], ...families.filter(Boolean).map((one) => [one, one])] : []);
  };

  // Start with a run that has guided completions: there is more to compare.
  const withGuided = parts.find((one) => one.cards.some((card) => card.s));
  field("run").value = String((withGuided || parts[0]).run);
  field("run").closest("label").hidden = field("run").options.length < 2;
  form.addEventListener("input", () => {
    choices();
    update();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", () => {
    const [first] = showMore();
    if (first) {
      first.setAttribute("tabindex", "-1");
      first.focus();
    }
  });
  choices();
  update();
}
