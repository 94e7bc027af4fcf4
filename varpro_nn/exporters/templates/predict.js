"use strict";

// What a trained network computes, after varpro_nn/exporters/folded.py, whose docstring is the
// specification. No dependencies; for the browser and for node.

/** Decode base64 of little-endian float32, whatever the order of bytes here. */
function varproFloats(text) {
  const binary = atob(text);
  const bytes = Uint8Array.from(binary, (letter) => letter.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Float32Array.from({ length: bytes.length / 4 }, (_, i) => view.getFloat32(4 * i, true));
}

const varproActivations = {
  "linear": [(z) => z],
  "logistic": [(z) => 1 / (1 + Math.exp(-z))],
  "tanh": [Math.tanh],
  "rectifier": [(z) => (z > 0 ? z : 0)],
  "two-sided": [
    (z, threshold) => (z > threshold ? z - threshold : 0),
    (z, threshold) => (-z > threshold ? -z - threshold : 0),
  ],
};

/**
 * Make the functions of a layer.
 *
 * `addCells(image, weight)` takes an image (channels, rows, columns) of `image_shape` and adds the
 * means over the places of each cell, times `weight`, to `cells`: (side, row of cells, column of
 * cells, unit). `maps()` returns them as the image of the next layer, (side, unit, row, column).
 * The output layer may see these maps in larger cells. `show(weight)` then adds the mean over each
 * larger cell, times `weight`, to `shown`.
 */
function varproLayer(layer) {
  const [channels, rows, columns] = layer.image_shape;
  const [height, width] = layer.window;
  const { stride, contrast, threshold } = layer;
  const [down, across] = layer.bounds;
  const bias = varproFloats(layer.bias);
  const sides = varproActivations[layer.activation];
  const h = bias.length;
  const n = channels * height * width;
  const nCells = (down.length - 1) * (across.length - 1);
  const filters = transposed(varproFloats(layer.filters));

  // All that the loops write to: nothing is allocated for an image.
  const P = new Float64Array(n);
  const z = new Float64Array(h);
  const cells = new Float64Array(sides.length * nCells * h);
  const asImage = new Float64Array(cells.length);
  const linear = varproFloats(layer.linear);
  const [largeDown, largeAcross] = layer.shown || [[0], [0]];
  const nLarge = (largeDown.length - 1) * (largeAcross.length - 1);
  const shown = new Float64Array(sides.length * nLarge * h);

  /** Put all units' weights of one pixel side by side. */
  function transposed(weights) {
    const result = new Float32Array(weights.length);
    for (let unit = 0; unit < h; unit++) {
      for (let pixel = 0; pixel < n; pixel++) result[pixel * h + unit] = weights[unit * n + pixel];
    }
    return result;
  }

  function takeWindow(image, top, left) {
    let p = 0;
    for (let channel = 0; channel < channels; channel++) {
      for (let y = top; y < top + height; y++) {
        const start = (channel * rows + y) * columns + left;
        for (let x = start; x < start + width; x++) P[p++] = image[x];
      }
    }
  }

  function normalise() {
    const first = P[0];
    let mean = 0;
    for (let p = 0; p < n; p++) mean += P[p] -= first; // a flat window is 0, without rounding
    mean /= n;
    let variance = 0;
    for (let p = 0; p < n; p++) variance += (P[p] - mean) * (P[p] - mean);
    const scale = 1 / Math.sqrt(variance / n + contrast);
    for (let p = 0; p < n; p++) P[p] = (P[p] - mean) * scale;
  }

  /** Pre-activations of the window in P. */
  function scalarise() {
    for (let unit = 0; unit < h; unit++) z[unit] = bias[unit];
    for (let p = 0; p < n; p++) {
      const pixel = P[p];
      if (pixel === 0) continue; // most of a drawing is black
      const start = p * h;
      for (let unit = 0; unit < h; unit++) z[unit] += pixel * filters[start + unit];
    }
  }

  /** Add the window's activations, each times `weight`, to the columns of a cell. */
  function activate(cell, weight) {
    for (let side = 0; side < sides.length; side++) {
      const f = sides[side];
      const start = (side * nCells + cell) * h;
      for (let unit = 0; unit < h; unit++) cells[start + unit] += weight * f(z[unit], threshold);
    }
  }

  function addCells(image, weight) {
    for (let r = 0; r + 1 < down.length; r++) {
      for (let c = 0; c + 1 < across.length; c++) {
        const nPlaces = (down[r + 1] - down[r]) * (across[c + 1] - across[c]);
        for (let i = down[r]; i < down[r + 1]; i++) {
          for (let j = across[c]; j < across[c + 1]; j++) {
            takeWindow(image, i * stride, j * stride);
            if (contrast !== null) normalise();
            scalarise();
            activate(r * (across.length - 1) + c, weight / nPlaces);
          }
        }
      }
    }
  }

  function maps() {
    for (let side = 0; side < sides.length; side++) {
      for (let cell = 0; cell < nCells; cell++) {
        const from = (side * nCells + cell) * h;
        for (let unit = 0; unit < h; unit++) {
          asImage[(side * h + unit) * nCells + cell] = cells[from + unit];
        }
      }
    }
    return asImage;
  }

  function show(weight) {
    let to = 0;
    for (let side = 0; side < sides.length; side++) {
      for (let r = 0; r + 1 < largeDown.length; r++) {
        for (let c = 0; c + 1 < largeAcross.length; c++) {
          const n = (largeDown[r + 1] - largeDown[r]) * (largeAcross[c + 1] - largeAcross[c]);
          for (let i = largeDown[r]; i < largeDown[r + 1]; i++) {
            for (let j = largeAcross[c]; j < largeAcross[c + 1]; j++) {
              const from = (side * nCells + i * (across.length - 1) + j) * h;
              for (let unit = 0; unit < h; unit++) shown[to + unit] += weight / n * cells[from + unit];
            }
          }
          to += h;
        }
      }
    }
  }

  return { cells, shown, linear, addCells, maps, show };
}

/**
 * Make the functions of a network.
 *
 * `model` is what varpro_nn/exporters/page.py writes. `outputs(pixels)` and `predict(pixels)` take
 * one image (channels, rows, columns): bytes 0 to 255, divided by 255, or floats, which are
 * intensities already; they return outputs, and probabilities, of the classes.
 */
function varproNetwork(model) {
  const [channels, rows, columns] = model.image_shape;
  const layers = model.layers.map(varproLayer);
  const below = layers.slice(0, -1);
  const last = layers[layers.length - 1];
  const { constant, temperature } = model;
  const k = constant.length;
  const image = new Float64Array(channels * rows * columns);
  const view = new Float64Array(image.length);

  /** Copy the image to `view`, mirrored or not. */
  function look(mirrored) {
    let to = 0;
    for (let start = 0; start < image.length; start += columns) {
      for (let x = 0; x < columns; x++) view[to++] = image[start + (mirrored ? columns - 1 - x : x)];
    }
  }

  function outputs(pixels) {
    if (pixels.length !== image.length) {
      throw new RangeError(`pixels must be ${image.length} numbers, got ${pixels.length}`);
    }
    const bytes = pixels instanceof Uint8Array || pixels instanceof Uint8ClampedArray;
    for (let i = 0; i < image.length; i++) image[i] = bytes ? pixels[i] / 255 : pixels[i];
    const views = { single: [false], flip: [false, true] }[model.views];
    // Outputs are linear in the columns: the mean over the views may as well be taken there.
    last.cells.fill(0);
    for (const layer of below) layer.shown.fill(0);
    for (const mirrored of views) {
      look(mirrored);
      let input = view;
      for (const layer of below) {
        layer.cells.fill(0);
        layer.addCells(input, 1);
        input = layer.maps();
        layer.show(1 / views.length);
      }
      last.addCells(input, 1 / views.length);
    }
    const result = Float64Array.from(constant);
    for (const { shown, linear } of [{ ...last, shown: last.cells }, ...below]) {
      for (let column = 0; column < shown.length; column++) {
        for (let j = 0; j < k; j++) result[j] += shown[column] * linear[column * k + j];
      }
    }
    return result;
  }

  function probabilities(values) {
    let largest = -Infinity;
    for (const value of values) largest = Math.max(largest, value);
    const shares = values.map((value) =>
      model.link === "softmax" ? Math.exp((value - largest) / temperature) : Math.max(value, 0));
    const total = shares.reduce((sum, share) => sum + share, 0);
    return shares.map((share) => (total > 0 ? share / total : 1 / k));
  }

  return {
    classes: model.classes,
    imageShape: model.image_shape,
    outputs,
    predict: (pixels) => probabilities(outputs(pixels)),
  };
}

if (typeof module !== "undefined") module.exports = { varproNetwork };
