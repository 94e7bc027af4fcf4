/* An image classifier of varpro_nn, as one C99 file. It needs <math.h> (-lm) and <stdint.h>, takes
 * no memory from the heap and changes nothing global: threads may call it at the same time.
 *
 * To call it from another file, declare there
 *
 *     int varpro_predict(const uint8_t *pixels, float *probabilities);
 *     extern const char *const varpro_labels[];
 *
 * pixels: $n_pixels bytes in the order (channels, rows, columns) = $image_shape. The pixels of the training
 * images are from $darkest to $lightest: VARPRO_DARKEST to VARPRO_LIGHTEST.
 * probabilities: room for $n_classes numbers.
 * Returns the number of the most probable class, a position in varpro_labels.
 *
$units
 * Weights: $precision.
 * Constants: $n_bytes bytes, and the labels. Stack: about $stack bytes.
 *
 * Classes:
$class_list
 *
 * With -DVARPRO_MAIN it is a program: an image from standard input (its bytes in the order above,
 * or a binary PGM or PPM file), label and probability to standard output.
 */

#include <math.h>
#include <stdint.h>

enum {
    VARPRO_N_CLASSES = $n_classes,
    VARPRO_N_CHANNELS = $channels,
    VARPRO_N_ROWS = $rows,
    VARPRO_N_COLUMNS = $columns,
    VARPRO_N_PIXELS = $n_pixels,
    VARPRO_DARKEST = $darkest,
    VARPRO_LIGHTEST = $lightest
};

int varpro_predict(const uint8_t *pixels, float *probabilities);
extern const char *const varpro_labels[];

const char *const varpro_labels[VARPRO_N_CLASSES] = {
$labels
};

enum {
    N_VIEWS = $n_views,
    LANES = $lanes /* units that are worked on at once */
};

//: logistic, tanh
/* The hyperbolic tangent, a quotient of polynomials: 4e-7 off at most, and unlike that of <math.h>
 * compilers make vectors of it. From 9 on the tangent is 1 in single precision. */
static float tangent(float x)
{
    x = x < -9.0f ? -9.0f : x;
    x = x > 9.0f ? 9.0f : x;
    float t = x * x;
    float above = 1.33545548e-8f * t + 2.06089953e-5f;
    above = (above * t + 3.49558238e-3f) * t + 0.133810207f;
    float below = 7.77651223e-7f * t + 3.28562601e-4f;
    below = (below * t + 2.58769598e-2f) * t + 0.467143357f;
    return x * (above * t + 1.0f) / (below * t + 1.0f);
}

//:
/* Multiply the features of one side of one cell by the linear weights A; add to the outputs. */
static void add_products(const float *features, int n, const $weight *A,
//: int8
                         float scale, const uint8_t *step,
//:
                         double *outputs)
{
    float part[VARPRO_N_CLASSES] = {0};
    for (int u = 0; u < n; u++) {
        float phi = features[u];
//: int8
        phi *= scale * (float)step[u];
//:
        for (int k = 0; k < VARPRO_N_CLASSES; k++) {
            part[k] += phi * (float)A[u * VARPRO_N_CLASSES + k];
        }
    }
    /* Added up in double precision, cell by cell: rounding errors stay small. */
    for (int k = 0; k < VARPRO_N_CLASSES; k++) {
        outputs[k] += (double)part[k];
    }
}

$layers

/* By side, cell, unit, class. */
static const $weight linear[N_SIDES * CELL_ROWS * CELL_COLUMNS * N_UNITS * VARPRO_N_CLASSES] = {
$linear
};
//: int8
/* The scale of a row is that of its side and cell times the step of its unit there. */
static const float linear_scale[N_SIDES * CELL_ROWS * CELL_COLUMNS] = {
$linear_scale
};
static const uint8_t linear_step[N_SIDES * CELL_ROWS * CELL_COLUMNS * N_UNITS] = {
$linear_step
};
//:
static const float constant[VARPRO_N_CLASSES] = {
$constant
};

//: flip
/* One view of the image: itself, or mirrored. */
static void make_view(const uint8_t *pixels, int view, uint8_t *image)
{
    for (int c = 0; c < VARPRO_N_CHANNELS; c++) {
        for (int y = 0; y < VARPRO_N_ROWS; y++) {
            for (int x = 0; x < VARPRO_N_COLUMNS; x++) {
                int column = view == 0 ? x : VARPRO_N_COLUMNS - 1 - x;
                *image++ = pixels[(c * VARPRO_N_ROWS + y) * VARPRO_N_COLUMNS + column];
            }
        }
    }
}

//:
/* Add the part of one cell to the outputs. */
static void add_cell(const $input *image, int cell_row, int cell_column, double *outputs)
{
    float sums[N_SIDES * TILES * LANES] = {0}, P[WINDOW_PIXELS * PLACES];
    int top = row_bounds[cell_row], left = column_bounds[cell_column];
    int width = column_bounds[cell_column + 1] - left;
    int n_places = (row_bounds[cell_row + 1] - top) * width;

    for (int first = 0; first < n_places; first += PLACES) {
        int n = n_places - first < PLACES ? n_places - first : PLACES;
        for (int i = 0; i < PLACES; i++) {
            int place = first + (i < n ? i : 0); /* columns without a place repeat one */
            take_window(image, (top + place / width) * STRIDE, (left + place % width) * STRIDE,
                        P + i);
        }
//: contrast
        normalise(P);
//:
        for (int tile = 0; tile < TILES; tile++) {
            float z[PLACES * LANES];
            pre_activations(P, tile, z);
            for (int i = 0; i < n; i++) {
                add_activations(z + i * LANES, sums + tile * LANES);
            }
        }
    }

    for (int side = 0; side < N_SIDES; side++) {
        int cell = (side * CELL_ROWS + cell_row) * CELL_COLUMNS + cell_column;
        for (int u = 0; u < N_UNITS; u++) {
            sums[side * TILES * LANES + u] /= (float)n_places;
        }
        add_products(sums + side * TILES * LANES, N_UNITS,
                     linear + cell * N_UNITS * VARPRO_N_CLASSES,
//: int8
                     linear_scale[cell], linear_step + cell * N_UNITS,
//:
                     outputs);
    }
}

int varpro_predict(const uint8_t *pixels, float *probabilities)
{
    double outputs[VARPRO_N_CLASSES] = {0};
    double total = 0.0;
    int best = 0;

    for (int view = 0; view < N_VIEWS; view++) {
//: single
        const uint8_t *image = pixels;
//:
//: flip
        uint8_t image[VARPRO_N_PIXELS];
        make_view(pixels, view, image);
//:
$maps        for (int row = 0; row < CELL_ROWS; row++) {
            for (int column = 0; column < CELL_COLUMNS; column++) {
                add_cell($source, row, column, outputs);
            }
        }
    }
    for (int k = 0; k < VARPRO_N_CLASSES; k++) {
        outputs[k] = outputs[k] / N_VIEWS + (double)constant[k];
        best = outputs[k] > outputs[best] ? k : best;
    }

    double largest = outputs[best];
    for (int k = 0; k < VARPRO_N_CLASSES; k++) {
//: softmax
        outputs[k] = exp((outputs[k] - largest) / $temperature);
//:
//: clip
        /* Outputs estimate probabilities; if none is positive, all classes are equal. */
        outputs[k] = largest <= 0.0 ? 1.0 : outputs[k] > 0.0 ? outputs[k] : 0.0;
//:
        total += outputs[k];
    }
    for (int k = 0; k < VARPRO_N_CLASSES; k++) {
        probabilities[k] = (float)(outputs[k] / total);
    }
    return best;
}

#ifdef VARPRO_MAIN
#include <ctype.h>
#include <stdio.h>

int main(void)
{
    uint8_t input[VARPRO_N_PIXELS + 1024], pixels[VARPRO_N_PIXELS];
    float probabilities[VARPRO_N_CLASSES];
    size_t size = fread(input, 1, sizeof input, stdin), at = 0;
    int raw = size == VARPRO_N_PIXELS, fits = raw;
    if (!raw && size > 2 && input[0] == 'P' && input[1] == (VARPRO_N_CHANNELS == 3 ? '6' : '5')) {
        int numbers[3] = {0};
        at = 2;
        for (int i = 0; i < 3; i++) {
            while (at < size && (isspace(input[at]) || input[at] == '#')) {
                if (input[at] == '#') { /* a comment */
                    while (at < size && input[at] != '\n') {
                        at++;
                    }
                } else {
                    at++;
                }
            }
            while (at < size && isdigit(input[at]) && numbers[i] < 100000) {
                numbers[i] = numbers[i] * 10 + (input[at++] - '0');
            }
        }
        at++; /* one blank after the header */
        fits = (VARPRO_N_CHANNELS == 1 || VARPRO_N_CHANNELS == 3) && numbers[0] == VARPRO_N_COLUMNS
               && numbers[1] == VARPRO_N_ROWS && numbers[2] == 255 && size >= at + VARPRO_N_PIXELS;
    }
    if (!fits) {
        fprintf(stderr, "no image of %d x %d x %d bytes, raw or PGM or PPM\n", VARPRO_N_CHANNELS,
                VARPRO_N_ROWS, VARPRO_N_COLUMNS);
        return 1;
    }
    for (int i = 0; i < VARPRO_N_PIXELS; i++) { /* the channels of a PPM file are innermost */
        int plane = VARPRO_N_ROWS * VARPRO_N_COLUMNS;
        int from = raw ? i : i % plane * VARPRO_N_CHANNELS + i / plane;
        pixels[i] = input[at + (size_t)from];
    }
    int reach = (VARPRO_LIGHTEST - VARPRO_DARKEST) / 2, beyond = 0;
    for (int i = 0; i < VARPRO_N_PIXELS; i++) {
        beyond += pixels[i] < VARPRO_DARKEST - reach || pixels[i] > VARPRO_LIGHTEST + reach;
    }
    if (beyond > 0) {
        fprintf(stderr, "pixels should be from %d to %d as in training, got %d far outside\n",
                VARPRO_DARKEST, VARPRO_LIGHTEST, beyond);
    }
    int label = varpro_predict(pixels, probabilities);
    printf("%s %.6f\n", varpro_labels[label], (double)probabilities[label]);
    return 0;
}
#endif
