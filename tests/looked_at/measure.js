(() => {
  // What a reader would notice: text, what sticks out to the right, and text that is too faint.
  const width = document.documentElement.clientWidth;
  const root = document.scrollingElement;
  const name = (e) => {
    const kind = e.tagName.toLowerCase() + (e.className && e.className.baseVal === undefined
      ? "." + String(e.className).trim().split(/\s+/).join(".") : "");
    return kind + ": " + (e.textContent || "").trim().replace(/\s+/g, " ").slice(0, 60);
  };
  const scrolls = (e) => {
    for (let p = e.parentElement; p && p !== document.body; p = p.parentElement) {
      const style = getComputedStyle(p);
      if (/(auto|scroll|hidden|clip)/.test(style.overflowX)) return true;
    }
    return false;
  };
  const visible = (e) => e.checkVisibility({ opacityProperty: true, visibilityProperty: true });
  const outside = [];
  for (const e of document.body.querySelectorAll("*")) {
    const box = e.getBoundingClientRect();
    if (box.width && box.right > width + 1 && visible(e) && !scrolls(e)) outside.push(name(e));
  }
  const parse = (colour) => {
    const m = colour.match(/rgba?\(([^)]+)\)/);
    if (m) {
      const [r, g, b, a] = m[1].split(/[ ,/]+/).map(Number);
      return [r, g, b, a === undefined ? 1 : a];
    }
    const s = colour.match(/color\(srgb ([^)]+)\)/);
    if (!s) return null;
    const [r, g, b, a] = s[1].split(/[ /]+/).map(Number);
    return [255 * r, 255 * g, 255 * b, a === undefined ? 1 : a];
  };
  const over = (top, below) =>
    [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const light = ([r, g, b]) => {
    const f = (v) => ((v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b);
  };
  const canvas = matchMedia("(prefers-color-scheme: dark)").matches
    && /dark/.test(getComputedStyle(document.documentElement).colorScheme)
    ? [18, 18, 18, 1] : [255, 255, 255, 1];
  const behind = (e) => {
    const layers = [];
    for (let p = e; p; p = p.parentElement) {
      const c = parse(getComputedStyle(p).backgroundColor);
      if (c && c[3] > 0) layers.push(c);
      if (c && c[3] === 1) break;
    }
    return layers.reverse().reduce((below, top) => over(top, below), canvas);
  };
  const faint = [];
  const lines = [];
  let smallest = Infinity;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const e = node.parentElement;
    if (!node.textContent.trim() || /^(SCRIPT|STYLE|NOSCRIPT|TITLE)$/i.test(e.tagName)) continue;
    if (!visible(e) || !e.getClientRects().length) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const box of range.getClientRects()) {
      if (box.width && box.height) lines.push([box, node.textContent.trim().slice(0, 30)]);
    }
    const style = getComputedStyle(e);
    const inSvg = e instanceof SVGElement;
    smallest = Math.min(smallest, parseFloat(style.fontSize));
    const colour = parse(inSvg ? style.fill : style.color);
    if (!colour) continue;
    const below = behind(e);
    for (let p = e; p; p = p.parentElement) colour[3] *= Number(getComputedStyle(p).opacity);
    const [a, b] = [light(over(colour, below)), light(below)];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) faint.push(contrast.toFixed(1) + " " + name(e));
  }
  // Lines of text may touch, and a letter's box is higher than the letter.
  const overlapping = [];
  lines.sort(([a], [b]) => a.top - b.top);
  lines.forEach(([a, one], i) => {
    for (let j = i + 1; j < lines.length && lines[j][0].top < a.bottom - 4; j++) {
      const [b, other] = lines[j];
      if (Math.min(a.right, b.right) - Math.max(a.left, b.left) > 0.5) {
        overlapping.push(one + " | " + other);
      }
    }
  });
  return {
    text: document.body.innerText,
    width,
    reaches: root.scrollWidth,
    outside: outside.slice(0, 8),
    overlapping: overlapping.slice(0, 8),
    faint: faint.slice(0, 8),
    smallest: smallest === Infinity ? 0 : smallest,
  };
})()
