/* Scores a row by a forest: by the best path that the processor has. */
#include "forest.h"

#include <math.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* The value goes right if it is greater; a missing one, where the block says so. */
static inline __attribute__((always_inline)) uint32_t
goes_right(const Block *block, const float *row, uint32_t split, bool missing)
{
	float		value = row[block->feature[split]];

	return (value > block->cut[split]) | (missing && isnan(value) && (block->missing_right >> split & 1));
}

static inline __attribute__((always_inline)) uint32_t
exit_portable(const Block *block, const float *row, bool missing)
{
	uint32_t	first = goes_right(block, row, 0, missing);
	uint32_t	second = goes_right(block, row, 1 + first, missing);

	return EXIT_SIZE * (4 * first + 2 * second + goes_right(block, row, 3 + 2 * first + second, missing));
}

#define PATH portable
#define TARGET
#define EXIT(block, row, width, missing) ((void) (width), exit_portable(block, row, missing))
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

/* Of a row too wide for registers, the block's values one by one. */
#define PICKED(n) row[block->feature[n]]
#define ONE_BY_ONE _mm256_setr_ps(PICKED(0), PICKED(1), PICKED(2), PICKED(3), PICKED(4), PICKED(5), PICKED(6), 0)
#define FEATURES(block) _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *) (block)->feature))

__attribute__((target("avx2"))) static inline __attribute__((always_inline)) uint32_t
exit_avx2(const Block *block, const float *row, int width, bool missing)
{
	__m256i		features = FEATURES(block);
	__m256		values,
				cuts = _mm256_loadu_ps(block->cut);
	uint8_t		right;

#define PERMUTED(from) _mm256_permutevar8x32_ps(_mm256_loadu_ps(row + (from)), features)
#define UPPER(bit) _mm256_castsi256_ps(_mm256_slli_epi32(features, 31 - (bit)))
#define SIXTEEN(from) _mm256_blendv_ps(PERMUTED(from), PERMUTED((from) + 8), UPPER(3))
	values = width == 8 ? PERMUTED(0) : width == 16 ? SIXTEEN(0) : width == 32 ? _mm256_blendv_ps(SIXTEEN(0), SIXTEEN(16), UPPER(4)) : ONE_BY_ONE;
#undef SIXTEEN
#undef UPPER
#undef PERMUTED
	right = (uint8_t) _mm256_movemask_ps(_mm256_cmp_ps(values, cuts, _CMP_GT_OQ));
	if (missing)
		right |= (uint8_t) _mm256_movemask_ps(_mm256_cmp_ps(values, values, _CMP_UNORD_Q)) & block->missing_right;
	return exit_of[right];
}

#define PATH avx2
#define TARGET __attribute__((target("avx2")))
#define EXIT exit_avx2
#include "walk.h"

__attribute__((target("avx512f,avx512vl"))) static inline __attribute__((always_inline)) uint32_t
exit_avx512vl(const Block *block, const float *row, int width, bool missing)
{
	__m256i		features = FEATURES(block);
	__m256		values,
				cuts = _mm256_loadu_ps(block->cut);
	uint8_t		right;

#define SIXTEEN(from) _mm256_permutex2var_ps(_mm256_loadu_ps(row + (from)), features, _mm256_loadu_ps(row + (from) + 8))
	values = width == 8 ? _mm256_permutexvar_ps(features, _mm256_loadu_ps(row)) : width == 16 ? SIXTEEN(0) :
		width == 32 ? _mm256_mask_blend_ps(_mm256_test_epi32_mask(features, _mm256_set1_epi32(16)), SIXTEEN(0), SIXTEEN(16)) : ONE_BY_ONE;
#undef SIXTEEN
	right = _mm256_cmp_ps_mask(values, cuts, _CMP_GT_OQ);
	if (missing)
		right |= _mm256_cmp_ps_mask(values, values, _CMP_UNORD_Q) & block->missing_right;
	return exit_of[right];
}

#define PATH avx512vl
#define TARGET __attribute__((target("avx512f,avx512vl")))
#define EXIT exit_avx512vl
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
	/* What a permute may pick beyond the row, it picks for splits that nobody asks for. */
	for (uint32_t feature = forest->feature_count; feature < 32; feature++)
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
	*score = forest->divisor != 0 ? pow(2.0, -(length / forest->divisor)) : 0.5;
	return true;
}
