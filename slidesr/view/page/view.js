// The viewer: two slides in one frame of units, the width of the last one being 1.
"use strict";

const $ = (id) => document.getElementById(id);
const facts = JSON.parse($("facts").textContent);
const isServed = $("facts").dataset.served === "true";
const isPair = facts.images.length === 2;
const stage = $("stage");
const state = { mode: isPair ? "swipe" : "single", at: 0.5, showsAfter: true };

// ---- viewers ---------------------------------------------------------------------------------

function tileSource(index) {
  const image = facts.images[index];
  const folder = isServed ? `tiles/${index}` : `${index}_files`;
  return {
    width: image.width, height: image.height, tileSize: image.tile_px, tileOverlap: 0,
    minLevel: Math.min(image.last, 8), maxLevel: image.last,
    getTileUrl: (level, x, y) => `${folder}/${level}/${x}_${y}.jpg`,
  };
}

function viewerIn(id, indices, hasNavigator) {
  const viewer = OpenSeadragon({
    id, drawer: "canvas", showNavigationControl: false, showNavigator: hasNavigator,
    navigatorPosition: "BOTTOM_RIGHT", navigatorSizeRatio: 0.16, navigatorAutoFade: false,
    animationTime: 0.35, springStiffness: 9, blendTime: 0.1, visibilityRatio: 0.4,
    maxZoomPixelRatio: 12, minZoomImageRatio: 0.6, imageLoaderLimit: 8, maxImageCacheCount: 600,
    gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
    gestureSettingsTouch: { clickToZoom: false, dblClickToZoom: true },
  });
  for (const index of indices) {
    const { x, y, w } = facts.images[index];
    viewer.addTiledImage({ tileSource: tileSource(index), x, y, width: w, preload: true });
  }
  viewer.addHandler("canvas-key", (event) => { event.preventDefaultAction = true; });
  viewer.addHandler("add-item-failed", () => { $("place").textContent = "a slide cannot be shown"; });
  return viewer;
}

const left = viewerIn("left", facts.images.map((_, index) => index), true);
let right = null; // made when it is first wanted
let follows = false;

function follow(leader, other) {
  leader.addHandler("viewport-change", () => {
    if (follows || state.mode !== "side") return;
    follows = true;
    other.viewport.zoomTo(leader.viewport.getZoom(true), null, true);
    other.viewport.panTo(leader.viewport.getCenter(true), true);
    other.viewport.applyConstraints(true);
    follows = false;
  });
}

const item = (index) => left.world.getItemAt(index);
const frame = () => left.viewport.getContainerSize();

// ---- modes -----------------------------------------------------------------------------------

function show() {
  if (left.world.getItemCount() < facts.images.length) return;
  stage.className = state.mode;
  $("right").hidden = state.mode !== "side";
  $("slider").hidden = state.mode !== "swipe";
  $("label-before").hidden = !isPair || (state.mode === "flicker" && state.showsAfter);
  $("label-after").hidden = state.mode === "flicker" && !state.showsAfter;
  for (const button of document.querySelectorAll("[data-mode]"))
    button.setAttribute("aria-pressed", String(button.dataset.mode === state.mode));
  if (isPair) {
    const hidden = state.mode === "side" || (state.mode === "flicker" && !state.showsAfter);
    item(1).setOpacity(hidden ? 0 : 1);
  }
  clip();
  lines();
}

function clip() {
  if (!isPair || left.world.getItemCount() < 2) return;
  const after = item(1), { width, height } = facts.images[1];
  if (state.mode !== "swipe") { after.setClip(null); return; }
  const border = left.viewport.pointFromPixel(new OpenSeadragon.Point(state.at * frame().x, 0), true).x;
  const from = Math.min(width - 1, Math.max(0, border * width));
  after.setClip(new OpenSeadragon.Rect(from, 0, width - from, height));
}

function slide(at) {
  state.at = Math.min(1, Math.max(0, at));
  $("slider").style.left = `${100 * state.at}%`;
  $("slider").setAttribute("aria-valuenow", String(Math.round(100 * state.at)));
  clip();
}

function setMode(mode) {
  if (!isPair) return;
  const center = left.viewport.getCenter(), bounds = left.viewport.getBounds();
  state.mode = mode;
  if (mode === "side" && !right) {
    right = viewerIn("right", [1], false);
    follow(left, right);
    follow(right, left);
    right.addHandler("open", place);
  }
  show();
  requestAnimationFrame(() => {  // the containers have their new sizes
    left.viewport.resize(new OpenSeadragon.Point($("left").clientWidth, $("left").clientHeight), true);
    left.viewport.zoomTo(1 / bounds.width, null, true).panTo(center, true);
    left.forceRedraw();
  });
}

function flicker() {
  if (!isPair) return;
  if (state.mode !== "flicker") setMode("flicker");
  state.showsAfter = !state.showsAfter;
  show();
}

// ---- layers ----------------------------------------------------------------------------------

let tissue = null;

function toggle(id) {
  const isOn = $(id).getAttribute("aria-pressed") !== "true";
  $(id).setAttribute("aria-pressed", String(isOn));
  return isOn;
}

function setTissue() {
  const isOn = toggle("tissue"), { x, y, w } = facts.images[0];
  if (tissue) { tissue.setOpacity(isOn ? 1 : 0); return; }
  left.addTiledImage({
    tileSource: { type: "image", url: "tissue.png", buildPyramid: false }, x, y, width: w,
    success: (event) => { tissue = event.item; },
  });
}

function setLines() {
  $("grid").hidden = !toggle("lines");
  lines();
}

function setPixels() {
  const isOn = toggle("pixels");
  for (const viewer of [left, right]) if (viewer) viewer.drawer.setImageSmoothingEnabled(!isOn);
}

function lines() {
  const canvas = $("grid");
  if (canvas.hidden || !left.viewport) return;
  const ratio = window.devicePixelRatio || 1, size = frame();
  canvas.width = stage.clientWidth * ratio;
  canvas.height = stage.clientHeight * ratio;
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  const bounds = left.viewport.getBounds(true);
  let step = facts.grid_px / facts.width_px;
  while (step * size.x / bounds.width < 24) step *= 2;
  context.strokeStyle = "#38bd94b3";
  context.lineWidth = 1;
  context.beginPath();
  const height = facts.height_px / facts.width_px;
  const at = (x, y) => left.viewport.pixelFromPoint(new OpenSeadragon.Point(x, y), true);
  const top = at(0, Math.max(0, bounds.y)).y, bottom = at(0, Math.min(height, bounds.y + bounds.height)).y;
  const start = at(Math.max(0, bounds.x), 0).x, end = at(Math.min(1, bounds.x + bounds.width), 0).x;
  const from = (low) => Math.max(0, Math.ceil(low / step)) * step;
  for (let x = from(bounds.x); x <= Math.min(1, bounds.x + bounds.width); x += step) {
    const column = Math.round(at(x, 0).x) + 0.5;
    context.moveTo(column, top); context.lineTo(column, bottom);
  }
  for (let y = from(bounds.y); y <= Math.min(height, bounds.y + bounds.height); y += step) {
    const row = Math.round(at(0, y).y) + 0.5;
    context.moveTo(start, row); context.lineTo(end, row);
  }
  context.stroke();
}

// ---- measures --------------------------------------------------------------------------------

function length(um) {
  return um >= 1000 ? `${um / 1000} mm` : um >= 1 ? `${um} µm` : `${Math.round(um * 1000)} nm`;
}

function measure() {
  const screen = frame().x * left.viewport.getZoom(true); // the last slide's width on the screen
  const zoom = screen / facts.width_px;
  $("zoom").textContent = facts.magnification
    ? `${(facts.magnification * zoom).toPrecision(3)}×` : `${(100 * zoom).toPrecision(3)} %`;
  $("scale").hidden = !facts.um_per_unit;
  if (!facts.um_per_unit) return;
  const most = 130 * facts.um_per_unit / screen, power = 10 ** Math.floor(Math.log10(most));
  const um = Number(([5, 2, 1].find((step) => step * power <= most) * power).toPrecision(3));
  $("bar").style.width = `${um * screen / facts.um_per_unit}px`;
  $("length").textContent = length(um);
}

let asked = 0;

async function readOut(point) {
  const x = Math.floor(point.x * facts.width_px), y = Math.floor(point.y * facts.width_px);
  const um = facts.um_per_unit;
  const where = um ? ` · ${(point.x * um).toFixed(1)}, ${(point.y * um).toFixed(1)} µm` : "";
  const text = `x ${x}, y ${y} px${where}`;
  const isInside = x >= 0 && y >= 0 && x < facts.width_px && y < facts.height_px;
  $("place").textContent = isInside ? text : "";
  if (!isInside || !isServed) return;
  const turn = ++asked;
  await new Promise((resolve) => setTimeout(resolve, 80));
  if (turn !== asked) return;
  const colours = await Promise.all(facts.images.map(async (image, index) => {
    const px = Math.floor((point.x - image.x) / image.w * image.width);
    const py = Math.floor((point.y - image.y) / image.w * image.width);
    if (px < 0 || py < 0) return null;
    const answer = await fetch(`pixel/${index}/${px}_${py}`).catch(() => null);
    return answer && answer.ok ? answer.json() : null;
  }));
  if (turn !== asked) return;
  for (const colour of colours.filter(Boolean)) {
    const swatch = document.createElement("i");
    swatch.style.background = `rgb(${colour.join(" ")})`;
    $("place").append(swatch, colour.join(" "));
  }
}

// ---- what is known ---------------------------------------------------------------------------

function entry(list, name, value) {
  const term = document.createElement("dt"), told = document.createElement("dd");
  term.textContent = name;
  told.textContent = value;
  list.append(term, told);
}

function label(id, title, image) {
  const name = document.createElement("b"), more = document.createElement("span");
  name.textContent = title;
  more.textContent = image.mpp ? `${Number(image.mpp.toPrecision(3))} µm/px` : "";
  $(id).replaceChildren(name, more);
}

function tell() {
  const last = facts.images.at(-1);
  $("title").textContent = last.name;
  document.title = `${last.name} · slidesr view`;
  for (const image of facts.images) {
    entry($("slides"), image.id, image.name);
    entry($("slides"), "size", `${image.width} × ${image.height} px`);
    entry($("slides"), "pixel", image.mpp ? `${Number(image.mpp.toPrecision(4))} µm` : "size unknown");
    if (image.magnification) entry($("slides"), "objective", `${image.magnification}×`);
  }
  for (const [name, value] of facts.provenance) entry($("provenance"), name.replaceAll("_", " "), value);
  $("made").hidden = !facts.provenance.length;
  $("card").textContent = facts.card || "";
  $("of").hidden = !facts.card;
  $("notice").hidden = !facts.synthetic;
  $("modes").hidden = !isPair;
  if (isPair) label("label-before", "Before", facts.images[0]);
  label("label-after", isPair ? "After" : last.name, last);
}

function fold(id, panel) { $(panel).hidden = !toggle(id); }

function fullScreen() {
  if (document.fullscreenElement) document.exitFullscreen();
  else document.documentElement.requestFullscreen().catch(() => {});
}

// ---- hands -----------------------------------------------------------------------------------

function pan(x, y) {
  const bounds = left.viewport.getBounds();
  left.viewport.panBy(new OpenSeadragon.Point(x * bounds.width * 0.15, y * bounds.height * 0.15));
  left.viewport.applyConstraints();
}

function zoom(factor) { left.viewport.zoomBy(factor).applyConstraints(); }

const KEYS = {
  ArrowLeft: () => pan(-1, 0), ArrowRight: () => pan(1, 0), ArrowUp: () => pan(0, -1), ArrowDown: () => pan(0, 1),
  a: () => pan(-1, 0), d: () => pan(1, 0), w: () => pan(0, -1), s: () => pan(0, 1),
  "+": () => zoom(1.5), "=": () => zoom(1.5), "-": () => zoom(1 / 1.5), 0: () => left.viewport.goHome(),
  1: () => setMode("swipe"), 2: () => setMode("side"), 3: () => setMode("flicker"), " ": flicker, x: flicker,
  t: setTissue, g: setLines, n: setPixels, i: () => fold("info", "panel"), "?": () => fold("help", "keys"),
  f: fullScreen,
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target === $("slider") && (event.key === "ArrowLeft" || event.key === "ArrowRight")) {
    slide(state.at + (event.key === "ArrowLeft" ? -0.02 : 0.02));
  } else if (KEYS[event.key] && !(event.key === " " && event.target.tagName === "BUTTON")) {
    KEYS[event.key]();
  } else return;
  event.preventDefault();
});

function dragSlider(event) {
  if (!event.buttons) return;
  const { left: start, width } = stage.getBoundingClientRect();
  slide((event.clientX - start) / width);
}

$("slider").addEventListener("pointerdown", (event) => {
  $("slider").setPointerCapture(event.pointerId);
  dragSlider(event);
});
$("slider").addEventListener("pointermove", dragSlider);
for (const button of document.querySelectorAll("[data-mode]"))
  button.addEventListener("click", () => setMode(button.dataset.mode));
for (const [id, act] of Object.entries({
  tissue: setTissue, lines: setLines, pixels: setPixels, full: fullScreen,
  info: () => fold("info", "panel"), help: () => fold("help", "keys"),
})) $(id).addEventListener("click", act);

function place() { if (left.viewport) { clip(); lines(); measure(); } }

function watch(viewer) {
  viewer.addHandler("viewport-change", place);
  viewer.addHandler("resize", place);
}

watch(left);
left.world.addHandler("add-item", () => { show(); measure(); });
left.addHandler("open", show);
stage.addEventListener("pointermove", (event) => {
  const box = $("left").getBoundingClientRect();
  if (!left.world.getItemCount()) return;
  const pixel = new OpenSeadragon.Point((event.clientX - box.left) % box.width, event.clientY - box.top);
  readOut(left.viewport.pointFromPixel(pixel, true));
});
tell();
slide(0.5);
