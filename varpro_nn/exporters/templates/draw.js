
// The canvas: what is drawn or dropped on it becomes an image, the network's answer becomes bars.
// Follows predict.js in the same script; the element of the page is the one that the script is in.

const root = document.currentScript.closest(".varpro");
const find = (selector) => root.querySelector(selector);
const model = JSON.parse(find(".varpro-model").textContent);
const network = varproNetwork(model);
const [channels, rows, columns] = model.image_shape;
const grey = channels === 1;

// Each pixel of the image is a square of so many of the canvas: scaling down is a mean of them,
// and a picture of the image's size goes through unchanged.
const cell = Math.max(2, Math.round(280 / Math.max(rows, columns)));
const canvas = find(".varpro-canvas");
const width = canvas.width = columns * cell;
const height = canvas.height = rows * cell;
const paper = canvas.getContext("2d", { willReadFrequently: true });
const seen = find(".varpro-seen canvas");
seen.width = columns;
seen.height = rows;

const stroke = find("[data-set=stroke]");
const centre = find("[data-set=centre]");
const invert = find("[data-set=invert]");
const colour = find(".varpro-colour input");
const file = find("[type=file]");
const show = (name, text) => { find(`[data-show=${name}]`).textContent = text; };
const bars = network.classes.map(bar);

let prefersCentred = centre.checked;
const items = []; // strokes, pictures and clearings, the last one last
let drawn = null; // the stroke under the pointer or the pen of the keys
let pointer = null; // its number: a second finger does not draw
let pen = null; // where the pen of the keys is
let waiting = false;
let milliseconds = 0;
let answered = -Infinity;

root.classList.toggle("varpro-is-grey", grey);
// MNIST's lines are two or three pixels of 28 wide, those of smaller images at least one.
stroke.value = 100 * Math.max(0.08, 1.2 / Math.max(rows, columns));
show("size", `${columns} × ${rows} pixels${grey ? ", grey" : ""}`);
show("centre", model.filled < 1
  ? `Prepare as MNIST was: scaled to ${Math.round(model.filled * rows)} of ${rows} pixels, ` +
    "centre of mass in the middle"
  : "Prepare as the training images: scaled to fill the image");

function bar(name) {
  const item = document.createElement("li");
  const parts = ["name", "track", "percent"].map((part) => {
    const element = document.createElement("span");
    element.className = `varpro-${part}`;
    item.append(element);
    return element;
  });
  parts[0].textContent = parts[0].title = name; // text, whatever is in it
  parts[1].append(document.createElement("span"));
  find(".varpro-bars").append(item);
  return { item, fill: parts[1].firstChild, percent: parts[2] };
}

// --- what is on the canvas ---------------------------------------------------------------

/** Items since the last clearing. */
function current() {
  return items.slice(items.findLastIndex((item) => item.kind === "clear") + 1);
}

const pictureOf = (shown) => shown.find((item) => item.kind === "picture");

function paint() {
  paper.fillStyle = grey ? "#000" : "#fff";
  paper.fillRect(0, 0, width, height);
  for (const item of current()) (item.kind === "picture" ? paintPicture : paintStroke)(item);
}

function paintStroke({ points, colour, size }) {
  paper.strokeStyle = colour;
  paper.lineWidth = size;
  paper.lineCap = paper.lineJoin = "round";
  paper.beginPath();
  paper.moveTo(...points[0]);
  // A line of no length would be left out: the first point twice, almost, is a dot.
  paper.lineTo(points[0][0] + 0.01, points[0][1]);
  for (const point of points) paper.lineTo(...point);
  paper.stroke();
}

function paintPicture({ picture }) {
  paper.drawImage(picture, 0, 0);
  if (grey && invert.checked) {
    paper.globalCompositeOperation = "difference"; // from white
    paper.fillStyle = "#fff";
    paper.fillRect(0, 0, width, height);
    paper.globalCompositeOperation = "source-over";
  }
}

/** Put a picture file on the canvas. */
async function take(picture) {
  let bitmap;
  try {
    // The numbers of the file, as Python reads them, without a colour profile.
    bitmap = await createImageBitmap(picture, { colorSpaceConversion: "none" });
  } catch {
    clearAnswer("The browser cannot read this file as a picture.");
    return;
  }
  const exact = bitmap.width === columns && bitmap.height === rows;
  const [small, context] = blank(32, 32, "#fff");
  context.drawImage(bitmap, 0, 0, small.width, small.height);
  const border = Math.round(mean(borderValues(planes(context, 32, 32, true)[0], 32, 32)));
  // Grey ones whole, on the colour of their border; coloured ones fill the image.
  const scale = (grey ? Math.min : Math.max)(width / bitmap.width, height / bitmap.height);
  const [w, h] = [bitmap.width * scale, bitmap.height * scale];
  const around = exact ? "#fff" : `rgb(${border} ${border} ${border})`;
  const [scaled, whole] = blank(width, height, around);
  whole.imageSmoothingEnabled = !exact;
  whole.drawImage(bitmap, (width - w) / 2, (height - h) / 2, w, h);
  bitmap.close(); // a photograph is large, and may stay for long
  items.push({ kind: "clear" }, { kind: "picture", picture: scaled, exact });
  centre.checked = !exact && prefersCentred;
  invert.checked = !exact && border > 127;
  update();
}

/** A canvas of one colour, and what draws on it. */
function blank(w, h, fill) {
  const result = document.createElement("canvas");
  result.width = w;
  result.height = h;
  const context = result.getContext("2d", { willReadFrequently: true });
  context.fillStyle = fill;
  context.fillRect(0, 0, w, h);
  context.imageSmoothingQuality = "high";
  return [result, context];
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

function borderValues(values, w, h) {
  return values.filter((_, i) => i < w || i >= w * (h - 1) || i % w === 0 || i % w === w - 1);
}

// --- from the canvas to the image --------------------------------------------------------

/** Pixels of a canvas as one grey plane, or three. */
function planes(context, w, h, asGrey) {
  const data = context.getImageData(0, 0, w, h).data;
  const result = Array.from({ length: asGrey ? 1 : 3 }, () => new Float32Array(w * h));
  for (let i = 0; i < w * h; i++) {
    const [r, g, b] = [data[4 * i], data[4 * i + 1], data[4 * i + 2]];
    // Pillow's grey, to the last bit.
    if (asGrey) result[0][i] = (19595 * r + 38470 * g + 7471 * b + 32768) >> 16;
    else [result[0][i], result[1][i], result[2][i]] = [r, g, b];
  }
  return result;
}

/**
 * Scale a box (x, y, w, h) of a plane that is `across` wide to `toColumns` x `toRows`: each value
 * is the mean over the area that it covers.
 */
function areaAverage(plane, across, [x, y, w, h], toColumns, toRows) {
  const narrow = new Float64Array(h * toColumns);
  for (let row = 0; row < h; row++) {
    average((i) => plane[(y + row) * across + x + i], w, toColumns,
      (j, value) => { narrow[row * toColumns + j] = value; });
  }
  const result = new Float64Array(toRows * toColumns);
  for (let column = 0; column < toColumns; column++) {
    average((i) => narrow[i * toColumns + column], h, toRows,
      (j, value) => { result[j * toColumns + column] = value; });
  }
  return result;
}

/** Means of `n` values over `m` stretches of the same length, fractions of a value included. */
function average(value, n, m, put) {
  const length = n / m;
  for (let j = 0; j < m; j++) {
    const [start, end] = [j * length, Math.min((j + 1) * length, n)];
    let sum = 0;
    for (let i = Math.floor(start); i < end; i++) {
      sum += value(i) * (Math.min(i + 1, end) - Math.max(i, start));
    }
    put(j, sum / length);
  }
}

/** The image that the network is given: bytes (channels, rows, columns). */
function prepare() {
  const values = planes(paper, width, height, grey);
  const pixels = new Uint8Array(channels * rows * columns);
  if (grey && centre.checked) {
    pixels.set(centred(values[0]).map(Math.round));
  } else {
    values.forEach((plane, channel) => pixels.set(
      areaAverage(plane, width, [0, 0, width, height], columns, rows).map(Math.round),
      channel * rows * columns));
  }
  return pixels;
}

/** As MNIST was made: the bounding box scaled to fit, its centre of mass moved to the middle. */
function centred(plane) {
  const result = new Float64Array(rows * columns);
  // The paper of a photograph is no black: what most of the border is becomes 0.
  const border = borderValues(plane, width, height).sort();
  const level = border[border.length >> 1];
  const largest = plane.reduce((most, value) => Math.max(most, value), 0);
  if (largest - level < 16) return result;
  const scale = 255 / (largest - level);
  const ink = plane.map((value) => Math.max(0, value - level) * scale);
  const box = boundingBox(ink);
  const factor = model.filled * Math.min(columns / box[2], rows / box[3]);
  const w = Math.max(1, Math.min(columns, Math.round(box[2] * factor)));
  const h = Math.max(1, Math.min(rows, Math.round(box[3] * factor)));
  const small = areaAverage(ink, width, box, w, h);
  let [mass, x, y] = [0, 0, 0];
  small.forEach((value, i) => {
    mass += value;
    x += value * (i % w + 0.5);
    y += value * (Math.floor(i / w) + 0.5);
  });
  const left = Math.min(Math.max(Math.round(columns / 2 - x / mass), 0), columns - w);
  const top = Math.min(Math.max(Math.round(rows / 2 - y / mass), 0), rows - h);
  small.forEach((value, i) => {
    result[(top + Math.floor(i / w)) * columns + left + i % w] = value;
  });
  return result;
}

function boundingBox(ink) {
  let [left, right, top, bottom] = [width, -1, height, -1];
  ink.forEach((value, i) => {
    if (value < 24) return;
    const [x, y] = [i % width, Math.floor(i / width)];
    [left, right] = [Math.min(left, x), Math.max(right, x)];
    [top, bottom] = [Math.min(top, y), Math.max(bottom, y)];
  });
  return [left, top, right - left + 1, bottom - top + 1];
}

// --- the answer --------------------------------------------------------------------------

function update() {
  waiting = false;
  paint();
  const [shown, picture] = [current(), pictureOf(current())];
  invert.disabled = !picture;
  find("[data-do=undo]").disabled = !items.length;
  find("[data-do=clear]").disabled = !shown.length;
  find(".varpro-pen").classList.toggle("varpro-down", pen !== null && drawn !== null);
  if (!shown.length) {
    clearAnswer(grey ? "Draw something" : "Drop a picture or draw");
    return;
  }
  const pixels = prepare();
  const start = performance.now();
  const shares = network.predict(pixels);
  answered = performance.now();
  milliseconds = answered - start;
  showPixels(pixels);
  showShares(shares);
  show("how", how(picture));
  Object.assign(window.varpro, { pixels, probabilities: shares, milliseconds });
}

function how(picture) {
  if (grey && centre.checked) return "scaled and centred";
  if (picture && picture.exact) return "the picture's own pixels";
  return "the canvas, scaled down";
}

function showPixels(pixels) {
  const context = seen.getContext("2d");
  const data = context.createImageData(columns, rows);
  for (let i = 0; i < rows * columns; i++) {
    for (let c = 0; c < 3; c++) {
      data.data[4 * i + c] = pixels[(grey ? 0 : c) * rows * columns + i];
    }
    data.data[4 * i + 3] = 255;
  }
  context.putImageData(data, 0, 0);
}

function showShares(shares) {
  const best = shares.indexOf(Math.max(...shares));
  bars.forEach(({ item, fill, percent }, j) => {
    fill.style.width = `${100 * shares[j]}%`;
    percent.textContent = percentage(shares[j]);
    item.classList.toggle("varpro-best", j === best);
  });
  show("label", network.classes[best]);
  show("share", percentage(shares[best]));
}

const percentage = (share) => `${(100 * share).toFixed(1)} %`;

function clearAnswer(text) {
  for (const { item, fill, percent } of bars) {
    fill.style.width = "0";
    percent.textContent = "";
    item.classList.remove("varpro-best");
  }
  seen.getContext("2d").clearRect(0, 0, columns, rows);
  show("label", "");
  show("share", text);
  show("how", "");
  Object.assign(window.varpro, { pixels: null, probabilities: null });
}

/** Answer with the next frame; while a line is drawn, a slow network leaves time to draw. */
function soon() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    if (drawn && performance.now() - answered < 2 * milliseconds) {
      waiting = false;
      paint();
    } else if (waiting) {
      update();
    }
  });
}

// --- pointer, keys, files ----------------------------------------------------------------

function place(event) {
  const box = canvas.getBoundingClientRect();
  return [(event.clientX - box.left) * width / box.width,
    (event.clientY - box.top) * height / box.height];
}

function begin(point) {
  const size = stroke.value / 100 * Math.max(width, height);
  drawn = { kind: "stroke", points: [point], colour: grey ? "#fff" : colour.value, size };
  items.push(drawn);
  soon();
}

function end() {
  drawn = pointer = null;
  update();
}

canvas.addEventListener("pointerdown", (event) => {
  if (pointer !== null || event.button !== 0) return;
  pointer = event.pointerId;
  canvas.setPointerCapture(pointer);
  hidePen();
  begin(place(event));
});
canvas.addEventListener("pointermove", (event) => {
  if (event.pointerId !== pointer || !drawn) return;
  const between = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
  for (const each of between.length ? between : [event]) drawn.points.push(place(each));
  soon();
});
for (const type of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(type, (event) => { if (event.pointerId === pointer) end(); });
}

function undo() {
  const last = items.pop();
  // A picture came with a clearing of what was there before.
  if (last && last.kind === "picture") items.pop();
  afterRemoval();
}

function clear() {
  if (current().length) items.push({ kind: "clear" });
  afterRemoval();
}

function afterRemoval() {
  drawn = null;
  if (!pictureOf(current())) centre.checked = prefersCentred;
  update();
}

function hidePen() {
  pen = drawn = null;
  find(".varpro-pen").hidden = true;
}

function movePen(dx, dy) {
  const step = Math.max(width, height) / 28;
  pen = pen || [width / 2, height / 2];
  pen = [Math.min(Math.max(pen[0] + dx * step, 0), width),
    Math.min(Math.max(pen[1] + dy * step, 0), height)];
  if (drawn) {
    drawn.points.push(pen);
    soon();
  }
  const mark = find(".varpro-pen");
  mark.hidden = false;
  mark.classList.toggle("varpro-down", drawn !== null);
  mark.style.left = `${100 * pen[0] / width}%`;
  mark.style.top = `${100 * pen[1] / height}%`;
}

function togglePen() {
  pen = pen || [width / 2, height / 2];
  if (drawn) end();
  else begin(pen);
  movePen(0, 0);
}

canvas.addEventListener("keydown", (event) => {
  const control = event.ctrlKey || event.metaKey;
  const action = {
    ArrowLeft: () => movePen(-1, 0),
    ArrowRight: () => movePen(1, 0),
    ArrowUp: () => movePen(0, -1),
    ArrowDown: () => movePen(0, 1),
    " ": togglePen,
    Delete: clear,
    Backspace: clear,
  }[event.key] || (control && event.key === "z" ? undo : null);
  if (!action || pointer !== null || (control && action !== undo)) return;
  event.preventDefault();
  action();
});
canvas.addEventListener("blur", hidePen);

find("[data-do=undo]").addEventListener("click", undo);
find("[data-do=clear]").addEventListener("click", clear);
centre.addEventListener("change", () => {
  prefersCentred = centre.checked;
  update();
});
invert.addEventListener("change", update);
file.addEventListener("change", () => {
  if (file.files.length) take(file.files[0]);
  file.value = ""; // the same file may be chosen again
});
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  if (event.dataTransfer.files.length) take(event.dataTransfer.files[0]);
});
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) take(event.clipboardData.files[0]);
});

window.varpro = { ...network, pixels: null, probabilities: null };
update();
// The browser compiles the loops while a first image goes through; no stroke should wait for that.
setTimeout(() => network.predict(new Float32Array(channels * rows * columns).map(Math.random)));
