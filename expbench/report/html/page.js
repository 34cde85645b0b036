"use strict";
{
  const root = document.documentElement;
  const said = document.getElementById("said");
  root.classList.add("js"); // without scripts all runs are visible

  let silence;
  const say = (text) => {
    said.textContent = text;
    clearTimeout(silence);
    silence = setTimeout(() => { said.textContent = ""; }, 2000);
  };

  // localStorage may be blocked for a page opened from a file
  const remembered = (value) => {
    try {
      if (value !== undefined) localStorage.setItem("expbench-theme", value);
      return localStorage.getItem("expbench-theme");
    } catch { return null; }
  };
  const themes = ["system", "light", "dark"];
  const button = document.getElementById("theme");
  const show = (theme) => {
    if (theme === "system") delete root.dataset.theme; else root.dataset.theme = theme;
    button.textContent = `Theme: ${theme}`;
  };
  let theme = themes.includes(remembered()) ? remembered() : "system";
  show(theme);
  button.addEventListener("click", () => {
    const seen = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
    // the first click must change the visible theme, so it skips the system's current one
    const order = seen === "dark" ? ["system", "light", "dark"] : ["system", "dark", "light"];
    theme = order[(order.indexOf(theme) + 1) % 3];
    remembered(theme);
    show(theme);
  });

  // sort by the first number of a cell, texts after numbers; missing values come last in both directions
  const missing = (text) => /^(-|no polynomial bound|\d+ (diverged|failed|unsupported).*)?$/.test(text);
  const valueOf = (text) => {
    const found = /^[i]?[-+]?\d[\d.]*(e[-+]?\d+)?/.exec(text);
    return found ? parseFloat(found[0].replace(/^i/, "")) : null;
  };
  const compare = (a, b, sign) => {
    if (missing(a) || missing(b)) return missing(a) - missing(b);
    const [x, y] = [valueOf(a), valueOf(b)];
    if (x !== null && y !== null && x !== y) return sign * (x - y);
    if ((x === null) !== (y === null)) return x === null ? 1 : -1;
    return sign * a.localeCompare(b, "en", { numeric: true });
  };
  const textOf = (body, column) => body.rows[0].cells[column].textContent.trim();
  const sort = (heading) => {
    const table = heading.closest("table");
    const column = heading.cellIndex;
    const sign = heading.ariaSort === "ascending" ? -1 : 1;
    const lines = [...table.tBodies].map((body) => [textOf(body, column), body]);
    lines.sort((a, b) => compare(a[0], b[0], sign));
    for (const other of table.tHead.rows[0].cells) if (other.ariaSort) other.ariaSort = "none";
    heading.ariaSort = sign === 1 ? "ascending" : "descending";
    table.append(...lines.map((line) => line[1]));
    say(`Sorted by ${heading.textContent.trim()}, ${heading.ariaSort}`);
  };

  const unfold = (opener, open) => {
    opener.setAttribute("aria-expanded", String(open));
    document.getElementById(opener.getAttribute("aria-controls")).classList.toggle("shown", open);
  };
  const openers = (table) => [...table.querySelectorAll("button.open")];

  const copy = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    say("Copied");
  };
  const csv = (table, name) => {
    const quoted = (cell) => `"${cell.textContent.trim().replaceAll('"', '""')}"`;
    const rows = [table.tHead.rows[0], ...[...table.tBodies].map((body) => body.rows[0])];
    const text = rows.map((row) => [...row.cells].map(quoted).join(",")).join("\r\n");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    link.download = `${name.replace(/[^\w.-]+/g, "-").slice(0, 60)}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };

  document.addEventListener("click", (event) => {
    const clicked = event.target.closest("button");
    if (!clicked) return;
    if (clicked.closest("thead")) sort(clicked.closest("th"));
    else if (clicked.matches(".open")) unfold(clicked, clicked.getAttribute("aria-expanded") !== "true");
    else if ("copy" in clicked.dataset) copy(clicked.parentElement.querySelector("pre").textContent);
    else if (clicked.dataset.csv) csv(document.getElementById(clicked.dataset.csv), clicked.dataset.name);
    else if (clicked.dataset.all) {
      const open = clicked.getAttribute("aria-expanded") !== "true";
      clicked.setAttribute("aria-expanded", String(open));
      clicked.textContent = open ? "Hide every run" : "Show every run";
      openers(document.getElementById(clicked.dataset.all)).forEach((opener) => unfold(opener, open));
    }
  });
  document.addEventListener("input", (event) => {
    const table = document.getElementById(event.target.dataset.filter ?? "");
    if (!table) return;
    const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const body of table.tBodies) {
      const text = body.rows[0].textContent.toLowerCase();
      body.hidden = !words.every((word) => text.includes(word));
    }
  });

  // a link to a row unfolds its runs; a link to a table inside <details> opens the <details>
  const arrive = () => {
    const target = document.getElementById(location.hash.slice(1));
    for (let fold = target?.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
    const opener = target?.querySelector(":scope > tr > th > button.open");
    if (opener) {
      target.hidden = false;
      unfold(opener, true);
    }
    target?.scrollIntoView({ block: "start" });
  };
  addEventListener("hashchange", arrive);
  if (location.hash) arrive();
}
