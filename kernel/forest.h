/*
 * A forest laid out for scoring: what relief_runtime.packed has packed, read and checked wholly. Knows nothing of PostgreSQL.
 */
#ifndef RELIEF_FOREST_H
#define RELIEF_FOREST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define MAX_FEATURES 1600
#define MAX_TREES 2000
#define LEVELS 3				/* that are walked at once */
#define SPLITS 7				/* of so many levels */
#define EXITS 8
#define EXIT_SIZE 3				/* bytes that hold the number of a block */
#define ABREAST 8				/* trees that are walked at once through their first levels */

/* How the machine goes through blocks; a path needs a processor that has it. */
typedef enum WalkPath { PORTABLE, AVX2, AVX512VL } WalkPath;

/* The first levels of several trees: at each split, the root first, then the next level, what each of them has there. */
typedef struct Start
{
	float		cut[SPLITS][ABREAST];	/* a row goes right if its value, as float32, is greater */
	uint8_t		feature[SPLITS][ABREAST];
	uint8_t		missing_right[SPLITS];	/* a bit a tree: a missing value goes right */
	uint32_t	next[EXITS][ABREAST];	/* the blocks that the exits lead to */
} Start;

/* Three levels of a tree in one cache line, as they are in a start. */
typedef struct Block
{
	float		cut[SPLITS];
	uint8_t		feature[SPLITS];
	uint8_t		missing_right;	/* a bit a split */
	uint8_t		exits[EXITS * EXIT_SIZE];	/* the next blocks, see forest_exit */
	uint8_t		padding[4];
} Block;

/* A node for the slow way, which takes every forest: thresholds that no float32 can stand for, features beyond the 256th. */
typedef struct TreeNode
{
	double		cut;			/* a row goes right if its value is greater; of a leaf, the path length that it adds */
	uint32_t	step;			/* to the right child; to the left one it is 1 */
	int16_t		feature;		/* -1: a leaf */
	bool		missing_left;
} TreeNode;

typedef struct Forest
{
	double		divisor;		/* of a row's total path length */
	uint32_t	feature_count;
	uint32_t	tree_count;
	bool		in_blocks;		/* else in nodes */
	uint32_t	start_levels;	/* how many levels starts hold */
	uint32_t	stage_count;	/* blocks on the longest way from there to a leaf */
	Start	   *starts;			/* of all trees; trees of many stages come first */
	uint32_t   *place;			/* of each tree, where it comes */
	uint32_t   *walking;		/* how many trees go through each stage */
	double	   *lengths;		/* path lengths of the first blocks, which are leaves: all their exits lead to themselves */
	Block	   *blocks;
	uint32_t   *first;			/* the node in which each tree begins, where they are in nodes */
	TreeNode	   *nodes;
	size_t		encoders;		/* where in the packed bytes the encoders begin */
} Forest;

/*
 * Returns where an exit leads to, given at which byte of the exits it begins: in the machine's order, read as four bytes, of
 * which the last, or first, is cut off.
 */
static inline uint32_t
forest_exit(const Block *block, uint32_t begins)
{
	uint32_t	next;

	memcpy(&next, block->exits + begins, sizeof(next));
	return __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__ ? next >> 8 : next & 0xffffff;
}

static inline void
forest_set_exit(Block *block, uint32_t exit, uint32_t next)
{
	if (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__)
		next <<= 8;
	memcpy(block->exits + exit * EXIT_SIZE, &next, EXIT_SIZE);
}

/* Where memory comes from; nothing is given back, the caller owns both places. */
typedef struct Memory
{
	void	   *(*allocate) (void *place, size_t size);
	void	   *kept;			/* of the forest */
	void	   *scratch;		/* of what is needed while it is read */
} Memory;

/* Returns the forest, or NULL and says why. */
extern Forest *forest_read(const uint8_t *bytes, size_t length, const Memory *memory, const char **why);

/* Whether the processor has a path. */
extern bool forest_path_exists(WalkPath path);

/* Returns false if all values are missing (NaN). */
extern bool forest_score(const Forest *forest, WalkPath path, const double *row, double *score);

#endif
