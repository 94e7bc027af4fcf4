
// The canvas: what is drawn or dropped on it becomes an image, the network's answer becomes bars.
// Follows predict.js in the same script; the element of the page is the one that the script is in.

const root = document.currentScript.closest(".varpro");
const find = (selector) => root.querySelector(selector);
const model = JSON.parse(find(".varpro-model").textContent);
const network = varproNetwork(model);
const [channels, rows, columns] = model.image_shape;
const grey = channels === 1;
// What the training images say about pictures; see data/preparation.py. Intensities are 0 to 1.
const { range, ground, full_ink: fullInk, stretches, frame } = model.preparation;
const hasGround = ground !== null;
const greyOf = (intensity) => `rgb(${Array(3).fill(Math.round(255 * intensity)).join(" ")})`;
const groundColour = grey ? greyOf(hasGround ? ground : 0) : "#fff";
const inkColour = greyOf(hasGround ? fullInk : 1);

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

centre.closest("label").hidden = !hasGround;
centre.checked = hasGround;
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
show("centre", "Prepare like the training images: " + (frame === null
  ? "the same background and contrast"
  : `scaled to ${Math.round(frame.filled * rows)} of ${rows} pixels, centred by ` +
    (frame.anchor === "mass" ? "mass" : "its bounding box")));

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
  paper.fillStyle = groundColour;
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
  const border = Math.round(median(borderValues(planes(context, 32, 32, true)[0], 32, 32)));
  // With a ground: whole, on the colour of their border. Others fill the image.
  const scale = (hasGround ? Math.min : Math.max)(width / bitmap.width, height / bitmap.height);
  const [w, h] = [bitmap.width * scale, bitmap.height * scale];
  const around = exact ? "#fff" : `rgb(${border} ${border} ${border})`;
  const [scaled, whole] = blank(width, height, around);
  whole.imageSmoothingEnabled = !exact;
  whole.drawImage(bitmap, (width - w) / 2, (height - h) / 2, w, h);
  const image = exact || hasGround ? null : cropped(bitmap);
  bitmap.close(); // a photograph is large, and may stay for long
  items.push({ kind: "clear" }, { kind: "picture", picture: scaled, exact, image });
  centre.checked = !exact && prefersCentred;
  invert.checked = !exact && hasGround && (border > 127) !== (ground > fullInk);
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

function median(values) {
  const inOrder = values.slice().sort(); // of numbers, for arrays of a type
  return (inOrder[(inOrder.length - 1) >> 1] + inOrder[inOrder.length >> 1]) / 2;
}

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

// Larger pictures are first drawn at a part of their size: a phone has little memory.
const LARGE = 2 ** 22;

/** The middle of a picture as an image, as data/cropping.py makes it: (channels, rows, columns). */
function cropped(bitmap) {
  const factor = Math.min(bitmap.height / rows, bitmap.width / columns) / 2;
  const parts = bitmap.width * bitmap.height > LARGE ? [8, 4, 2] : [];
  const part = parts.find((n) => n <= factor) || 1;
  const [w, h] = [Math.ceil(bitmap.width / part), Math.ceil(bitmap.height / part)];
  const [, context] = blank(w, h, "#fff");
  context.drawImage(bitmap, 0, 0, w, h);
  const [boxW, boxH] = [Math.min(w, h * columns / rows), Math.min(h, w * rows / columns)];
  const shrinks = columns <= boxW && rows <= boxH;
  const across = weightsOf(w, boxW, columns, shrinks);
  const down = weightsOf(h, boxH, rows, shrinks);
  const result = new Uint8Array(channels * rows * columns);
  planes(context, w, h, grey).forEach((plane, channel) => {
    const narrow = resampled(plane, w, h, across);
    result.set(resampled(narrow, h, columns, down), channel * rows * columns);
  });
  return result;
}

/**
 * Of a part of `n` values, `length` long in the middle: where each of `m` means starts, and its
 * weights. As Pillow's filters, to the rounding: areas if the part shrinks, else interpolation.
 */
function weightsOf(n, length, m, shrinks) {
  const start = Math.fround((n - length) / 2);
  const scale = Math.fround(Math.fround((n + length) / 2) - start) / m;
  const unit = Math.max(scale, 1);
  const reach = shrinks ? unit / 2 : unit;
  return Array.from({ length: m }, (_, j) => {
    const place = start + (j + 0.5) * scale;
    const first = Math.max(Math.floor(place - reach + 0.5), 0);
    const end = Math.min(Math.floor(place + reach + 0.5), n);
    const weights = Array.from({ length: end - first }, (_, i) => {
      const away = (first + i - place + 0.5) * (1 / unit);
      return shrinks ? Number(away > -0.5 && away <= 0.5) : Math.max(1 - Math.abs(away), 0);
    });
    const sum = weights.reduce((a, b) => a + b, 0);
    return { first, weights: weights.map((weight) => weight / sum) };
  });
}

/** Resample each of `count` rows of `n` values; the result has columns in place of rows. */
function resampled(plane, n, count, taken) {
  const result = new Uint8Array(taken.length * count);
  taken.forEach(({ first, weights }, j) => {
    for (let row = 0; row < count; row++) {
      let sum = 0;
      for (let i = 0; i < weights.length; i++) sum += weights[i] * plane[row * n + first + i];
      result[j * count + row] = Math.round(sum);
    }
  });
  return result;
}

/** The image that the network is given: bytes (channels, rows, columns). */
function prepare() {
  const [first, ...others] = current();
  if (first && first.image && !others.length) {
    return grey && invert.checked ? first.image.map((value) => 255 - value) : first.image;
  }
  const values = planes(paper, width, height, grey);
  const pixels = new Uint8Array(channels * rows * columns);
  if (hasGround && centre.checked) {
    pixels.set(prepared(values[0]).map((share) =>
      Math.round(255 * (ground + share * (fullInk - ground)))));
  } else {
    values.forEach((plane, channel) => pixels.set(
      areaAverage(plane, width, [0, 0, width, height], columns, rows).map(Math.round),
      channel * rows * columns));
  }
  return pixels;
}

// The same parts of the contrast as in data/preparation.py.
const FAINT = 0.1;

/** What a plane shows, as ink from 0 to 1, placed as in the training images. */
function prepared(plane) {
  // The paper of a photograph is not black: what most of the border is becomes the ground.
  const level = median(borderValues(plane, width, height));
  const sign = fullInk > ground ? 1 : -1;
  const contrast = plane.reduce((most, value) => Math.max(most, sign * (value - level)), 0);
  const whole = 255 * Math.abs(fullInk - ground);
  if (contrast < FAINT * whole) return new Float64Array(rows * columns);
  const unit = stretches ? contrast : whole;
  const ink = Float64Array.from(plane,
    (value) => Math.min(Math.max(sign * (value - level) / unit, 0), 1));
  return frame === null || stands(ink)
    ? areaAverage(ink, width, [0, 0, width, height], columns, rows) : framed(ink);
}

/** Whether ink is framed already, but for a pixel: then it is not moved or scaled once more. */
function stands(ink) {
  const factor = columns / width;
  const box = boundingBox(ink, width, height);
  const [x, y] = frame.anchor === "mass"
    ? centreOfMass(ink, width) : [box[0] + box[2] / 2, box[1] + box[3] / 2];
  const longer = factor * Math.max(box[3] / rows, box[2] / columns);
  return Math.abs(longer - frame.filled) * Math.min(rows, columns) <= 0.5 &&
    Math.abs(factor * y - frame.centre[0] * rows) <= 1 &&
    Math.abs(factor * x - frame.centre[1] * columns) <= 1;
}

/** Scale the bounding box of the ink to the frame, and move it. */
function framed(ink) {
  const result = new Float64Array(rows * columns);
  const box = boundingBox(ink, width, height);
  const factor = frame.filled * Math.min(columns / box[2], rows / box[3]);
  const w = Math.max(1, Math.min(columns, Math.round(box[2] * factor)));
  const h = Math.max(1, Math.min(rows, Math.round(box[3] * factor)));
  const small = areaAverage(ink, width, box, w, h);
  const [x, y] = frame.anchor === "mass" ? centreOfMass(small, w) : [w / 2, h / 2];
  const left = Math.min(Math.max(Math.round(frame.centre[1] * columns - x), 0), columns - w);
  const top = Math.min(Math.max(Math.round(frame.centre[0] * rows - y), 0), rows - h);
  small.forEach((value, i) => {
    result[(top + Math.floor(i / w)) * columns + left + i % w] = value;
  });
  return result;
}

function centreOfMass(plane, across) {
  let [mass, x, y] = [0, 0, 0];
  plane.forEach((value, i) => {
    mass += value;
    x += value * (i % across + 0.5);
    y += value * (Math.floor(i / across) + 0.5);
  });
  return [x / mass, y / mass];
}

/** Box (x, y, w, h) around what is more than faint. */
function boundingBox(ink, across, down) {
  const least = FAINT * ink.reduce((most, value) => Math.max(most, value), 0);
  let [left, right, top, bottom] = [across, -1, down, -1];
  ink.forEach((value, i) => {
    if (value < least) return;
    const [x, y] = [i % across, Math.floor(i / across)];
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
  show("how", how(picture, pixels));
  Object.assign(window.varpro, { pixels, probabilities: shares, milliseconds });
}

function how(picture, pixels) {
  const [low, high] = range.map((intensity) => 255 * intensity);
  const reach = (high - low) / 2;
  if (pixels.some((value) => value < low - reach || value > high + reach)) {
    return `pixels should be from ${Math.round(low)} to ${Math.round(high)} as in training`;
  }
  if (hasGround && centre.checked) {
    return frame === null ? "on the background of the training images" : "scaled and centred";
  }
  if (picture && picture.exact) return "the picture's own pixels";
  if (picture && picture.image && current().length === 1) {
    return "the middle of the picture, resized";
  }
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
  drawn = { kind: "stroke", points: [point], colour: grey ? inkColour : colour.value, size };
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
