enum {
    N_SIDES = $n_sides,
    N_UNITS = $n_units,
    CELL_ROWS = $cell_rows,
    CELL_COLUMNS = $cell_columns,
    WINDOW_ROWS = $window_rows,
    WINDOW_COLUMNS = $window_columns,
    WINDOW_PIXELS = $window_pixels,
    STRIDE = $stride,
    PLACES = $places, /* places that are worked on at once */
    TILES = $tiles,
//: maps
    /* of the layer below */
    IN_SIDES = $in_sides,
    IN_UNITS = $in_units,
    IN_COLUMNS = $in_columns,
    IN_MAPS = $in_maps,
//:
    N_MAPS = N_SIDES * TILES * LANES /* of a cell, padding of the last tile included */
};

/* First place of each cell, then the number of places. */
static const int row_bounds[CELL_ROWS + 1] = {$row_bounds};
static const int column_bounds[CELL_COLUMNS + 1] = {$column_bounds};

/* By tile, pixel of the window, unit of the tile; units that fill the last tile are 0. */
static const $weight filters[TILES * WINDOW_PIXELS * LANES] = {
$filters
};
//: int8
static const float filter_scale[TILES * LANES] = {
$filter_scale
};
//:
static const float bias[TILES * LANES] = {
$bias
};

//: image
/* The pixels of a window as intensities, one column of P. */
static void take_window(const uint8_t *image, int top, int left, float *P)
{
    for (int c = 0; c < VARPRO_N_CHANNELS; c++) {
        for (int y = 0; y < WINDOW_ROWS; y++) {
            const uint8_t *from =
                image + (c * VARPRO_N_ROWS + top + y) * VARPRO_N_COLUMNS + left;
            for (int x = 0; x < WINDOW_COLUMNS; x++) {
                *P = (float)from[x] * (1.0f / 255.0f);
                P += PLACES;
            }
        }
    }
}

//:
//: maps
/* The numbers of a window of maps, one column of P. */
static void take_window(const float *maps, int top, int left, float *P)
{
    for (int side = 0; side < IN_SIDES; side++) {
        for (int u = 0; u < IN_UNITS; u++) {
            for (int y = 0; y < WINDOW_ROWS; y++) {
                const float *from = maps + ((top + y) * IN_COLUMNS + left) * IN_MAPS
                                    + side * (IN_MAPS / IN_SIDES) + u;
                for (int x = 0; x < WINDOW_COLUMNS; x++) {
                    *P = from[x * IN_MAPS];
                    P += PLACES;
                }
            }
        }
    }
}

//:
//: contrast
/* Take mean and contrast out of each column of P. */
static void normalise(float *P)
{
    float mean[PLACES] = {0}, variance[PLACES] = {0}, deviation[PLACES], first[PLACES];
    for (int i = 0; i < PLACES; i++) {
        first[i] = P[i];
    }
    for (int p = 0; p < WINDOW_PIXELS; p++) {
        for (int i = 0; i < PLACES; i++) {
            P[p * PLACES + i] -= first[i]; /* all of a flat window is 0, without rounding */
            mean[i] += P[p * PLACES + i];
        }
    }
    for (int i = 0; i < PLACES; i++) {
        mean[i] /= (float)WINDOW_PIXELS;
    }
    for (int p = 0; p < WINDOW_PIXELS; p++) {
        for (int i = 0; i < PLACES; i++) {
            P[p * PLACES + i] -= mean[i];
            variance[i] += P[p * PLACES + i] * P[p * PLACES + i];
        }
    }
    for (int i = 0; i < PLACES; i++) {
        deviation[i] = sqrtf(variance[i] / (float)WINDOW_PIXELS + $contrast);
    }
    for (int p = 0; p < WINDOW_PIXELS; p++) {
        for (int i = 0; i < PLACES; i++) {
            P[p * PLACES + i] /= deviation[i];
        }
    }
}

//:
//: int8
/* Weights of a tile as floats. */
static void scale_filters(int tile, float *restrict F)
{
    for (int p = 0; p < WINDOW_PIXELS; p++) {
        for (int u = 0; u < LANES; u++) {
            float f = (float)filters[(tile * WINDOW_PIXELS + p) * LANES + u];
            F[p * LANES + u] = f * filter_scale[tile * LANES + u];
        }
    }
}

//:
/* Products of the weights F of a tile with all columns of P. Compilers turn the loop over units
 * into vectors, one sum for each place in a register. */
static void respond(const float *restrict P, const float *restrict F, float *restrict z)
{
    for (int u = 0; u < LANES; u++) {
        float $sums_start;
        for (int p = 0; p < WINDOW_PIXELS; p++) {
            float f = F[p * LANES + u];
$sums_add
        }
$sums_store
    }
}

/* Pre-activations of a tile at all columns of P. */
static void pre_activations(const float *P, int tile, float *z)
{
//: float32
    respond(P, filters + tile * WINDOW_PIXELS * LANES, z);
//:
//: int8
    float F[WINDOW_PIXELS * LANES];
    scale_filters(tile, F);
    respond(P, F, z);
//:
    for (int i = 0; i < PLACES; i++) {
        for (int u = 0; u < LANES; u++) {
            z[i * LANES + u] += bias[tile * LANES + u];
        }
    }
}

/* Add the activations of one place to the sums of a tile. */
static void add_activations(const float *z, float *sums)
{
    for (int u = 0; u < LANES; u++) {
//: logistic
        sums[u] += 0.5f * tangent(0.5f * z[u]) + 0.5f;
//:
//: tanh
        sums[u] += tangent(z[u]);
//:
//: rectifier
        sums[u] += z[u] > 0.0f ? z[u] : 0.0f;
//:
//: linear
        sums[u] += z[u];
//:
//: two-sided
        float above = z[u] - $threshold, below = -z[u] - $threshold;
        sums[u] += above > 0.0f ? above : 0.0f;
        sums[TILES * LANES + u] += below > 0.0f ? below : 0.0f;
//:
    }
}

//: below
enum { ALL_PLACES = $all_places, PLACE_COLUMNS = $place_columns };

/* Row of cells of each row of places, column of cells of each column. */
static const uint16_t cell_of_row[ALL_PLACES / PLACE_COLUMNS] = {
$cell_of_row
};
static const uint16_t cell_of_column[PLACE_COLUMNS] = {
$cell_of_column
};

/* Means over the places of each cell: by row of cells, column of cells, side, unit. */
static void make_maps(const $input *image, float *restrict maps)
{
    float P[WINDOW_PIXELS * PLACES];

    for (int i = 0; i < CELL_ROWS * CELL_COLUMNS * N_MAPS; i++) {
        maps[i] = 0.0f;
    }
    for (int first = 0; first < ALL_PLACES; first += PLACES) {
        int n = ALL_PLACES - first < PLACES ? ALL_PLACES - first : PLACES;
        for (int i = 0; i < PLACES; i++) {
            int place = first + (i < n ? i : 0); /* columns without a place repeat one */
            int row = place / PLACE_COLUMNS, column = place % PLACE_COLUMNS;
            take_window(image, row * STRIDE, column * STRIDE, P + i);
        }
//:
//: below-contrast
        normalise(P);
//:
//: below
        for (int tile = 0; tile < TILES; tile++) {
            float z[PLACES * LANES];
            pre_activations(P, tile, z);
            for (int i = 0; i < n; i++) {
                int row = cell_of_row[(first + i) / PLACE_COLUMNS];
                int column = cell_of_column[(first + i) % PLACE_COLUMNS];
                float *cell = maps + (row * CELL_COLUMNS + column) * N_MAPS;
                add_activations(z + i * LANES, cell + tile * LANES);
            }
        }
    }
    for (int row = 0; row < CELL_ROWS; row++) {
        for (int column = 0; column < CELL_COLUMNS; column++) {
            int n_places = (row_bounds[row + 1] - row_bounds[row])
                           * (column_bounds[column + 1] - column_bounds[column]);
            float *cell = maps + (row * CELL_COLUMNS + column) * N_MAPS;
            for (int i = 0; i < N_MAPS; i++) {
                cell[i] /= (float)n_places;
            }
        }
    }
}

//:
//: shown
enum { LARGE_ROWS = $large_rows, LARGE_COLUMNS = $large_columns };

/* The output layer sees the maps in larger cells. First row of each, then the number of rows. */
static const int large_row_bounds[LARGE_ROWS + 1] = {$large_row_bounds};
static const int large_column_bounds[LARGE_COLUMNS + 1] = {$large_column_bounds};

/* By side, larger cell, unit, class. */
static const $weight linear[N_SIDES * LARGE_ROWS * LARGE_COLUMNS * N_UNITS * VARPRO_N_CLASSES] = {
$linear
};
//:
//: shown-int8
static const float linear_scale[N_SIDES * LARGE_ROWS * LARGE_COLUMNS] = {
$linear_scale
};
static const uint8_t linear_step[N_SIDES * LARGE_ROWS * LARGE_COLUMNS * N_UNITS] = {
$linear_step
};
//:
//: shown

/* Add the contribution of these maps to the outputs. */
static void add_maps(const float *maps, double *outputs)
{
    for (int cell = 0; cell < N_SIDES * LARGE_ROWS * LARGE_COLUMNS; cell++) {
        int side = cell / (LARGE_ROWS * LARGE_COLUMNS);
        int row = cell / LARGE_COLUMNS % LARGE_ROWS, column = cell % LARGE_COLUMNS;
        int top = large_row_bounds[row], bottom = large_row_bounds[row + 1];
        int left = large_column_bounds[column], right = large_column_bounds[column + 1];
        float sums[N_UNITS] = {0};
        for (int y = top; y < bottom; y++) {
            for (int x = left; x < right; x++) {
                const float *from =
                    maps + (y * CELL_COLUMNS + x) * N_MAPS + side * TILES * LANES;
                for (int u = 0; u < N_UNITS; u++) {
                    sums[u] += from[u];
                }
            }
        }
        for (int u = 0; u < N_UNITS; u++) {
            sums[u] /= (float)((bottom - top) * (right - left));
        }
        add_products(sums, N_UNITS, linear + cell * N_UNITS * VARPRO_N_CLASSES,
//:
//: shown-int8
                     linear_scale[cell], linear_step + cell * N_UNITS,
//:
//: shown
                     outputs);
    }
}

//:
