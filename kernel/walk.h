/*
 * The walk through starts and blocks of all trees, stage by stage: trees don't wait for each other, and nothing branches on the row.
 * Included once a path, which defines PATH, its name, and TARGET, what it needs of the processor, and has two functions of its
 * name: start_..., which takes eight trees through their first levels, to where the next blocks are, and exit_..., which returns
 * where the exit begins that a row takes from a block; given the row, how many values it is padded to, and whether any is missing.
 */
#define JOINED(name, path) name##_##path
#define NAME(name, path) JOINED(name, path)

TARGET static inline __attribute__((always_inline)) double
NAME(walk_width, PATH) (const Forest *forest, const float *row, int width, bool missing)
{
	uint32_t	at[(MAX_TREES + ABREAST - 1) / ABREAST * ABREAST];
	uint32_t	stages = forest->stage_count;
	bool		end_together = stages > 0 && forest->walking[stages - 1] == forest->tree_count;
	double		length = 0;

#define START(levels) \
	for (uint32_t tree = 0; tree < forest->tree_count; tree += ABREAST) \
		NAME(start, PATH) (&forest->starts[tree / ABREAST], levels, row, width, missing, at + tree)
	if (forest->start_levels == 1)
		START(1);
	else if (forest->start_levels == 2)
		START(2);
	else
		START(3);
#undef START

#define NEXT_BLOCK(tree) \
	forest_exit(&forest->blocks[at[tree]], NAME(exit, PATH) (&forest->blocks[at[tree]], row, width, missing))
	for (uint32_t stage = 0; stage < stages - end_together; stage++)
	{
		uint32_t	walking = forest->walking[stage];

		for (uint32_t tree = 0; tree < walking; tree++)
			at[tree] = NEXT_BLOCK(tree);
	}
	/*
	 * In the order of the trees: another order rounds otherwise. Trees that all end in the last stage walk in that order, so each
	 * is added while the next ones walk.
	 */
	if (end_together)
		for (uint32_t tree = 0; tree < forest->tree_count; tree++)
			length += forest->lengths[NEXT_BLOCK(tree)];
	else
		for (uint32_t tree = 0; tree < forest->tree_count; tree++)
			length += forest->lengths[at[forest->place[tree]]];
	return length;
#undef NEXT_BLOCK
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
#undef TARGET
#undef PATH
