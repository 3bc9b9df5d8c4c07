/* What the tests call of the kernel without a server: a forest in memory of its own, and many rows at once. */
#include "forest.h"

#include <math.h>
#include <stdlib.h>

/* Each piece is allocated by itself, so that AddressSanitizer sees what is read or written beside it. */
typedef struct Pieces
{
	void	  **pieces;
	size_t		count;
	size_t		size;
} Pieces;

typedef struct Shim
{
	Pieces		kept;
	const Forest *forest;
} Shim;

static void *
allocate(void *place, size_t size)
{
	Pieces	   *pieces = place;

	pieces->pieces = realloc(pieces->pieces, (pieces->count + 1) * sizeof(void *));
	pieces->size += size;
	return pieces->pieces[pieces->count++] = malloc(size);
}

static void
release(Pieces *pieces)
{
	while (pieces->count > 0)
		free(pieces->pieces[--pieces->count]);
	free(pieces->pieces);
}

void
shim_free(Shim *shim)
{
	release(&shim->kept);
	free(shim);
}

Shim *
shim_read(const uint8_t *bytes, size_t length, const char **why)
{
	Shim	   *shim = calloc(1, sizeof(Shim));
	Pieces		scratch = {0};

	shim->forest = forest_read(bytes, length, &(Memory) {allocate, &shim->kept, &scratch}, why);
	release(&scratch);
	if (shim->forest)
		return shim;
	shim_free(shim);
	return NULL;
}

size_t
shim_size(const Shim *shim)
{
	return shim->kept.size;
}

bool
shim_is_in_blocks(const Shim *shim)
{
	return shim->forest->in_blocks;
}

/* Scores rows, one after the other in memory; a row without a score gets NaN. */
void
shim_score(const Shim *shim, WalkPath path, const double *rows, size_t count, double *scores)
{
	for (size_t row = 0; row < count; row++)
		if (!forest_score(shim->forest, path, rows + row * shim->forest->feature_count, &scores[row]))
			scores[row] = NAN;
}
