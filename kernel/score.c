/* Scores a row by a forest: by the best path that the processor has. */
#include "forest.h"

#include <math.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* The value goes right if it is greater; a missing one, where that is said. */
static inline __attribute__((always_inline)) uint32_t
goes_right(float value, float cut, bool missing, uint32_t missing_right)
{
	return (value > cut) | (missing && isnan(value) && missing_right);
}

static inline __attribute__((always_inline)) void
start_portable(const Start *start, uint32_t levels, const float *row, int width, bool missing, uint32_t *at)
{
	(void) width;
	for (uint32_t tree = 0; tree < ABREAST; tree++)
	{
		uint32_t	split = 0;

		for (uint32_t level = 0; level < levels; level++)
			split = 2 * split + 1 + goes_right(row[start->feature[split][tree]], start->cut[split][tree], missing,
											   start->missing_right[split] >> tree & 1);
		at[tree] = start->next[split + 1 - (1 << levels)][tree];
	}
}

static inline __attribute__((always_inline)) uint32_t
exit_portable(const Block *block, const float *row, int width, bool missing)
{
#define RIGHT(split) goes_right(row[block->feature[split]], block->cut[split], missing, block->missing_right >> (split) & 1)
	uint32_t	first = RIGHT(0);
	uint32_t	second = RIGHT(1 + first);

	(void) width;
	return EXIT_SIZE * (4 * first + 2 * second + RIGHT(3 + 2 * first + second));
#undef RIGHT
}

#define PATH portable
#define TARGET
#include "walk.h"

#if defined(__x86_64__)

/* Where the exit begins, given a bit a split: whether the row goes right. The eighth bit is of what isn't a split. */
#define FIRST(bits) ((bits) & 1)
#define SECOND(bits) ((bits) >> (1 + FIRST(bits)) & 1)
#define THIRD(bits) ((bits) >> (3 + 2 * FIRST(bits) + SECOND(bits)) & 1)
#define OF_1(bits) (EXIT_SIZE * (4 * FIRST(bits) + 2 * SECOND(bits) + THIRD(bits)))
#define OF_4(bits) OF_1(bits), OF_1((bits) + 1), OF_1((bits) + 2), OF_1((bits) + 3)
#define OF_16(bits) OF_4(bits), OF_4((bits) + 4), OF_4((bits) + 8), OF_4((bits) + 12)
#define OF_64(bits) OF_16(bits), OF_16((bits) + 16), OF_16((bits) + 32), OF_16((bits) + 48)
static const uint8_t exit_of[256] = {OF_64(0), OF_64(64), OF_64(0), OF_64(64)};

#define FEATURES(feature) _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *) (feature)))

/* Of a row too wide for registers, values one by one. */
#define PICKED(n) row[feature[n]]
#define ONE_BY_ONE _mm256_setr_ps(PICKED(0), PICKED(1), PICKED(2), PICKED(3), PICKED(4), PICKED(5), PICKED(6), PICKED(7))

/* Picks the values of eight features from a row. */
__attribute__((target("avx2"))) static inline __attribute__((always_inline)) __m256
pick_avx2(const uint8_t *feature, const float *row, int width)
{
	__m256i		features = FEATURES(feature);

#define PERMUTED(from) _mm256_permutevar8x32_ps(_mm256_loadu_ps(row + (from)), features)
#define UPPER(bit) _mm256_castsi256_ps(_mm256_slli_epi32(features, 31 - (bit)))
#define SIXTEEN(from) _mm256_blendv_ps(PERMUTED(from), PERMUTED((from) + 8), UPPER(3))
	return width == 8 ? PERMUTED(0) : width == 16 ? SIXTEEN(0) : width == 32 ? _mm256_blendv_ps(SIXTEEN(0), SIXTEEN(16), UPPER(4)) : ONE_BY_ONE;
#undef SIXTEEN
#undef UPPER
#undef PERMUTED
}

/* Of eight trees, what is right or left of a split. */
__attribute__((target("avx2"))) static inline __attribute__((always_inline)) __m256i
turn_avx2(const Start *start, int split, const float *row, int width, bool missing, __m256i left, __m256i right)
{
	__m256		values = pick_avx2(start->feature[split], row, width);
	__m256		turns = _mm256_cmp_ps(values, _mm256_loadu_ps(start->cut[split]), _CMP_GT_OQ);

	if (missing)
	{
		__m256i		bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
		__m256i		said = _mm256_and_si256(_mm256_set1_epi32(start->missing_right[split]), bits);

		turns = _mm256_or_ps(turns, _mm256_and_ps(_mm256_cmp_ps(values, values, _CMP_UNORD_Q),
												 _mm256_castsi256_ps(_mm256_cmpeq_epi32(said, bits))));
	}
	return _mm256_castps_si256(_mm256_blendv_ps(_mm256_castsi256_ps(left), _mm256_castsi256_ps(right), turns));
}

__attribute__((target("avx2"))) static inline __attribute__((always_inline)) uint32_t
exit_avx2(const Block *block, const float *row, int width, bool missing)
{
	__m256		values = pick_avx2(block->feature, row, width);
	uint8_t		right = (uint8_t) _mm256_movemask_ps(_mm256_cmp_ps(values, _mm256_loadu_ps(block->cut), _CMP_GT_OQ));

	if (missing)
		right |= (uint8_t) _mm256_movemask_ps(_mm256_cmp_ps(values, values, _CMP_UNORD_Q)) & block->missing_right;
	return exit_of[right];
}

/* Goes through the first levels: from what the exits lead to up to the root, each split leaves one of two. */
#define NEXT(exit) _mm256_loadu_si256((const __m256i *) start->next[exit])
#define OF_TWO(turn, split, exit) turn(start, split, row, width, missing, NEXT(exit), NEXT((exit) + 1))
#define OF_FOUR(turn, split, below, exit) \
	turn(start, split, row, width, missing, OF_TWO(turn, below, exit), OF_TWO(turn, (below) + 1, (exit) + 2))
#define OF_EIGHT(turn) turn(start, 0, row, width, missing, OF_FOUR(turn, 1, 3, 0), OF_FOUR(turn, 2, 5, 4))
#define GO_THROUGH(turn) (levels == 1 ? OF_TWO(turn, 0, 0) : levels == 2 ? OF_FOUR(turn, 0, 1, 0) : OF_EIGHT(turn))

__attribute__((target("avx2"))) static inline __attribute__((always_inline)) void
start_avx2(const Start *start, uint32_t levels, const float *row, int width, bool missing, uint32_t *at)
{
	_mm256_storeu_si256((__m256i *) at, GO_THROUGH(turn_avx2));
}

#define PATH avx2
#define TARGET __attribute__((target("avx2")))
#include "walk.h"

__attribute__((target("avx512f,avx512vl"))) static inline __attribute__((always_inline)) __m256
pick_avx512vl(const uint8_t *feature, const float *row, int width)
{
	__m256i		features = FEATURES(feature);

#define SIXTEEN(from) _mm256_permutex2var_ps(_mm256_loadu_ps(row + (from)), features, _mm256_loadu_ps(row + (from) + 8))
	return width == 8 ? _mm256_permutexvar_ps(features, _mm256_loadu_ps(row)) : width == 16 ? SIXTEEN(0) :
		width == 32 ? _mm256_mask_blend_ps(_mm256_test_epi32_mask(features, _mm256_set1_epi32(16)), SIXTEEN(0), SIXTEEN(16)) : ONE_BY_ONE;
#undef SIXTEEN
}

__attribute__((target("avx512f,avx512vl"))) static inline __attribute__((always_inline)) uint8_t
right_avx512vl(const uint8_t *feature, const float *cut, uint8_t missing_right, const float *row, int width, bool missing)
{
	__m256		values = pick_avx512vl(feature, row, width);
	uint8_t		right = _mm256_cmp_ps_mask(values, _mm256_loadu_ps(cut), _CMP_GT_OQ);

	if (missing)
		right |= _mm256_cmp_ps_mask(values, values, _CMP_UNORD_Q) & missing_right;
	return right;
}

__attribute__((target("avx512f,avx512vl"))) static inline __attribute__((always_inline)) __m256i
turn_avx512vl(const Start *start, int split, const float *row, int width, bool missing, __m256i left, __m256i right)
{
	return _mm256_mask_blend_epi32(
		right_avx512vl(start->feature[split], start->cut[split], start->missing_right[split], row, width, missing), left, right);
}

__attribute__((target("avx512f,avx512vl"))) static inline __attribute__((always_inline)) uint32_t
exit_avx512vl(const Block *block, const float *row, int width, bool missing)
{
	return exit_of[right_avx512vl(block->feature, block->cut, block->missing_right, row, width, missing)];
}

__attribute__((target("avx512f,avx512vl"))) static inline __attribute__((always_inline)) void
start_avx512vl(const Start *start, uint32_t levels, const float *row, int width, bool missing, uint32_t *at)
{
	_mm256_storeu_si256((__m256i *) at, GO_THROUGH(turn_avx512vl));
}

#define PATH avx512vl
#define TARGET __attribute__((target("avx512f,avx512vl")))
#include "walk.h"
#endif

bool
forest_path_exists(WalkPath path)
{
#if defined(__x86_64__)
	if (path == AVX2)
		return __builtin_cpu_supports("avx2");
	if (path == AVX512VL)
		return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl");
#endif
	return path == PORTABLE;
}

static double
walk_nodes(const Forest *forest, const double *row)
{
	double		length = 0;

	for (uint32_t tree = 0; tree < forest->tree_count; tree++)
	{
		const TreeNode *node = &forest->nodes[forest->first[tree]];

		while (node->feature >= 0)
		{
			double		value = row[node->feature];

			node += value <= node->cut || (isnan(value) && node->missing_left) ? 1 : node->step;
		}
		length += node->cut;
	}
	return length;
}

static double
walk_blocks(const Forest *forest, WalkPath path, const double *row, bool missing)
{
	float		values[UINT8_MAX + 1] __attribute__((aligned(32)));

	for (uint32_t feature = 0; feature < forest->feature_count && feature <= UINT8_MAX; feature++)
		values[feature] = (float) row[feature];
	/* What is picked beyond the row, is picked for splits that nobody asks for. */
	for (uint32_t feature = forest->feature_count; feature < (forest->feature_count > 32 ? UINT8_MAX + 1 : 32); feature++)
		values[feature] = 0;
#if defined(__x86_64__)
	if (path == AVX2)
		return walk_avx2(forest, values, missing);
	if (path == AVX512VL)
		return walk_avx512vl(forest, values, missing);
#endif
	(void) path;
	return walk_portable(forest, values, missing);
}

/* Read as it runs: of a base that it knows, clang makes exp2 of pow, which rounds otherwise than the runtime's pow. */
static const volatile double base = 2;

bool
forest_score(const Forest *forest, WalkPath path, const double *row, double *score)
{
	uint32_t	missing = 0;
	double		length;

	for (uint32_t feature = 0; feature < forest->feature_count; feature++)
		missing += isnan(row[feature]) != 0;
	if (missing == forest->feature_count)
		return false;
	length = forest->in_blocks ? walk_blocks(forest, path, row, missing > 0) : walk_nodes(forest, row);
	/* One training row: depth and divisor are both 0, and scikit-learn answers 2 ** -1. */
	*score = forest->divisor != 0 ? pow(base, -(length / forest->divisor)) : 0.5;
	return true;
}
