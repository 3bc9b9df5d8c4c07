/*
 * Reads packed forests that were damaged at random, and scores with those that are still taken for forests, by every path.
 * Arguments: how many, the seed, files of packed forests. Compiled with sanitizers, it ends with an error at the first wrong access.
 */
#include "shim.c"

#include <stdio.h>

#define ROWS 8

static uint64_t state;

static uint32_t
below(uint32_t limit)
{
	state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (uint32_t) (state >> 33) % limit;
}

static void
damage(uint8_t *bytes, size_t *length)
{
	static const int32_t awkward[] = {0, 1, -1, 2, 255, 256, 1600, 1601, 2000, 2001, 65535, INT32_MAX, INT32_MIN};
	size_t		header = *length < 64 ? *length : 64;

	for (uint32_t times = 1 + below(3); times > 0 && *length > 8; times--)
	{
		size_t		at = below(2) ? below((uint32_t) header) : below((uint32_t) *length);

		switch (below(5))
		{
			case 0:				/* a bit */
				bytes[at] ^= (uint8_t) (1 << below(8));
				break;
			case 1:				/* a byte */
				bytes[at] = (uint8_t) below(256);
				break;
			case 2:				/* a number */
				if (at + sizeof(int32_t) <= *length)
					memcpy(bytes + at, &awkward[below(sizeof(awkward) / sizeof(*awkward))], sizeof(int32_t));
				break;
			case 3:				/* a piece from elsewhere */
				memmove(bytes + at, bytes + below((uint32_t) *length), at < *length - 8 ? 8 : 0);
				break;
			case 4:				/* an end too early */
				*length = below(4) ? *length : below((uint32_t) *length);
				break;
		}
	}
}

int
main(int count, char **arguments)
{
	uint32_t	taken = 0,
				refused = 0,
				times;

	if (count < 4)
		return 2;
	times = (uint32_t) strtoul(arguments[1], NULL, 10);
	state = strtoul(arguments[2], NULL, 10);
	for (uint32_t n = 0; n < times; n++)
	{
		FILE	   *file = fopen(arguments[3 + n % (uint32_t) (count - 3)], "rb");
		uint8_t    *packed = malloc(1 << 16);
		size_t		length = file ? fread(packed, 1, 1 << 16, file) : 0;
		uint8_t    *bytes;
		const char *why = NULL;
		Shim	   *shim;

		if (file)
			fclose(file);
		damage(packed, &length);
		/* A copy that ends where the forest ends. */
		bytes = malloc(length ? length : 1);
		memcpy(bytes, packed, length);
		free(packed);
		shim = shim_read(bytes, length, &why);
		if (shim)
		{
			uint32_t	d = shim->forest->feature_count;
			double	   *rows = malloc(ROWS * d * sizeof(double));
			double		scores[ROWS];

			for (uint32_t value = 0; value < ROWS * d; value++)
				rows[value] = below(8) ? below(2000) / 100.0 - 10 : below(2) ? NAN : below(2) ? INFINITY : -INFINITY;
			for (WalkPath path = PORTABLE; path <= AVX512VL; path++)
				if (forest_path_exists(path))
					shim_score(shim, path, rows, ROWS, scores);
			free(rows);
			shim_free(shim);
			taken++;
		}
		else if (why == NULL)
			return 3;
		else
			refused++;
		free(bytes);
	}
	printf("%u refused, %u taken\n", refused, taken);
	return 0;
}
