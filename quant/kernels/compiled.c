/* Float8 weights and INT8 activations on a CPU, built by compiler.py where gcc is at hand.

   A code's exponent and mantissa, shifted to where a float32 has its own, are a power of two too small: the difference
   of the exponents' biases. Subnormal codes become subnormal numbers, so that they are right too. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define EACH_ROW _Pragma("omp parallel for num_threads(threads) schedule(static)")
#define VECTORIZED _Pragma("omp simd")

/* [rows, width] codes with a scale for each tall x wide of them; how far a code is shifted, and its power of two */
struct weight {
    const uint8_t *codes;
    const float *scale;
    int64_t rows, width, tall, wide;
    int32_t shift;
    float power;
};

/* codes from one to before another of a row, which share a scale */
struct run {
    int64_t from, to;
    float scale;
};

INLINE int64_t runs(const struct weight *w) { return (w->width + w->wide - 1) / w->wide; }

INLINE struct run run(const struct weight *w, int64_t row, int64_t i) {
    int64_t from = i * w->wide, to = from + w->wide;
    return (struct run){from, to < w->width ? to : w->width, w->scale[row / w->tall * runs(w) + i]};
}

INLINE float value(uint8_t code, int32_t shift, float power) {
    uint32_t bits = (uint32_t)(code & 0x7f) << shift | (uint32_t)(code & 0x80) << 24;
    float number;
    memcpy(&number, &bits, 4);
    return number * power;
}

/* to the nearest, of two the even one; of no NaN */
INLINE uint16_t bfloat16(float number) {
    uint32_t bits;
    memcpy(&bits, &number, 4);
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

INLINE float float32(float number) { return number; }

#define DEQUANTIZE(name, type)                                                                     \
    void to_##name(const struct weight *given, type *out, int32_t threads) {                       \
        const struct weight w = *given;                                                            \
        EACH_ROW for (int64_t row = 0; row < w.rows; row++) {                                      \
            const uint8_t *codes = w.codes + row * w.width;                                        \
            type *own = out + row * w.width;                                                       \
            for (int64_t i = 0; i < runs(&w); i++) {                                               \
                const struct run one = run(&w, row, i);                                            \
                VECTORIZED for (int64_t k = one.from; k < one.to; k++)                             \
                    own[k] = name(value(codes[k], w.shift, w.power) * one.scale);                  \
            }                                                                                      \
        }                                                                                          \
    }

DEQUANTIZE(bfloat16, uint16_t)
DEQUANTIZE(float32, float)

/* y[rows] = W x, of one token x[width] */
void one_token(const struct weight *given, const float *x, float *y, int32_t threads) {
    const struct weight w = *given;
    EACH_ROW for (int64_t row = 0; row < w.rows; row++) {
        const uint8_t *codes = w.codes + row * w.width;
        float total = 0;
        for (int64_t i = 0; i < runs(&w); i++) {
            const struct run one = run(&w, row, i);
            float sum = 0;
            _Pragma("omp simd reduction(+ : sum)") for (int64_t k = one.from; k < one.to; k++)
                sum += value(codes[k], w.shift, w.power) * x[k];
            total += sum * one.scale;
        }
        y[row] = total;
    }
}

INLINE uint32_t magnitude(float number) {
    uint32_t bits;
    memcpy(&bits, &number, 4);
    return bits & 0x7fffffff;
}

/* codes[tokens, width] and scale[tokens]: largest / 127, not below least; of a token with a NaN the scale is NaN */
void int8_codes(const float *x, int8_t *codes, float *scale, int64_t tokens, int64_t width, float least,
                int32_t threads) {
    EACH_ROW for (int64_t token = 0; token < tokens; token++) {
        const float *values = x + token * width;
        int8_t *own = codes + token * width;
        uint32_t largest = 0; /* of magnitudes as integers, among which NaN is the largest */
        _Pragma("omp simd reduction(max : largest)") for (int64_t k = 0; k < width; k++)
            largest = magnitude(values[k]) > largest ? magnitude(values[k]) : largest;
        float step;
        memcpy(&step, &largest, 4);
        step = step / 127 < least ? least : step / 127;
        VECTORIZED for (int64_t k = 0; k < width; k++) {
            const float code = rintf(values[k] / step);
            own[k] = (int8_t)(code > 127 ? 127 : code < -127 ? -127 : code);
        }
        scale[token] = step;
    }
}
