"""Provides tests of pages with a script that finds text that is hard to read."""

# Returns up to ten elements whose text has a contrast with its background below 4.5 (WCAG 2.2,
# 1.4.3). Elements that are not visible are included only if `hidden` is true.
FAINT = """(hidden) => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const known = new Map();
  const parse = (colour) => {
    if (!known.has(colour)) {
      canvas.clearRect(0, 0, 1, 1);
      canvas.fillStyle = colour;
      canvas.fillRect(0, 0, 1, 1);
      const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
      known.set(colour, [r, g, b, a / 255]);
    }
    return known.get(colour);
  };
  const over = ([r, g, b, a], [x, y, z]) =>
    [r * a + x * (1 - a), g * a + y * (1 - a), b * a + z * (1 - a), 1];
  const luminance = ([r, g, b]) => [r, g, b]
    .map((part) => (part /= 255) <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
    .reduce((sum, part, at) => sum + part * [0.2126, 0.7152, 0.0722][at], 0);
  const grounds = new Map();
  const ground = (element) => {
    if (!element) return [255, 255, 255, 1];
    if (!grounds.has(element)) {
      const own = parse(getComputedStyle(element).backgroundColor);
      grounds.set(element, own[3] === 1 ? own : over(own, ground(element.parentElement)));
    }
    return grounds.get(element);
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const faint = new Set(), tokens = new Set();
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, text = walker.currentNode.data.trim();
    // Permalinks of headings are seen when they are pointed at.
    if (!text || element.closest("script, style, noscript, title, desc, .headerlink")) continue;
    // Tokens of one kind of code have one colour.
    if (element.matches(".highlight span")) {
      if (tokens.has(element.className)) continue;
      tokens.add(element.className);
    }
    const visible = { opacityProperty: true, visibilityProperty: true };
    if (!hidden && !element.checkVisibility(visible)) continue;
    const style = getComputedStyle(element), behind = ground(element);
    const front = parse(element.closest("svg") ? style.fill : style.color);
    const [low, high] = [luminance(over(front, behind)), luminance(behind)].sort((a, b) => a - b);
    const contrast = (high + 0.05) / (low + 0.05);
    if (contrast < 4.5) faint.add(`${contrast.toFixed(2)}: ${element.outerHTML.slice(0, 80)}`);
  }
  return [...faint].slice(0, 10);
}"""
