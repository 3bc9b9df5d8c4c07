/*
 * The walk through the blocks of all trees, stage by stage: trees don't wait for each other, and nothing branches on the row.
 * Included once a path, which defines PATH, its name, TARGET, what it needs of the processor, and EXIT, which returns the exit
 * that a row takes from a block, given the row, how many values it is padded to, and whether any is missing.
 */
#define JOINED(name, path) name##_##path
#define NAME(name, path) JOINED(name, path)

TARGET static inline __attribute__((always_inline)) double
NAME(walk_width, PATH) (const Forest *forest, const float *row, int width, bool missing)
{
	uint32_t	at[MAX_TREES];
	double		length = 0;

	memcpy(at, forest->first, forest->tree_count * sizeof(uint32_t));
	for (uint32_t stage = 0; stage < forest->stage_count; stage++)
	{
		uint32_t	walking = forest->walking[stage];

		for (uint32_t tree = 0; tree < walking; tree++)
		{
			const Block *block = &forest->blocks[at[tree]];

			at[tree] = forest_exit(block, EXIT(block, row, width, missing));
		}
	}
	/* In the order of the trees: another order rounds otherwise. */
	for (uint32_t tree = 0; tree < forest->tree_count; tree++)
		length += forest->lengths[at[forest->place[tree]]];
	return length;
}

TARGET static double
NAME(walk, PATH) (const Forest *forest, const float *row, bool missing)
{
	uint32_t	d = forest->feature_count;

#define WALK(width) (missing ? NAME(walk_width, PATH) (forest, row, width, true) : NAME(walk_width, PATH) (forest, row, width, false))
	return d <= 8 ? WALK(8) : d <= 16 ? WALK(16) : d <= 32 ? WALK(32) : WALK(256);
#undef WALK
}

#undef NAME
#undef JOINED
#undef EXIT
#undef TARGET
#undef PATH
