/* Reads a packed forest: checks every number in it, then lays it out in blocks, or in nodes where blocks can't hold it. */
#include "forest.h"

#include <math.h>

static const char magic[16] = "relief forest 1\n";

#define MAX_NODES 2000000

/* Numbers as they lie in the bytes, anywhere: a copy would touch as much memory again, which takes longer than to read it. */
#define STORED __attribute__((packed, may_alias))
typedef struct STORED StoredShort { int16_t value; } StoredShort;
typedef struct STORED StoredUint { uint32_t value; } StoredUint;
typedef struct STORED StoredDouble { double value; } StoredDouble;

/* A packed forest as it lies in the bytes, tree after tree, each in preorder. */
typedef struct Packed
{
	uint32_t	nodes;
	const StoredUint *sizes;	/* of each tree */
	const StoredShort *features;
	const int8_t *missing_left;
	const StoredUint *steps;
	const StoredDouble *cuts;
	uint32_t   *heights;		/* levels of splits below and with a node; 0: a leaf */
} Packed;

typedef struct Reader
{
	const uint8_t *bytes;
	size_t		length;
	size_t		position;
} Reader;

/* Returns where the next values are; NULL if there aren't as many. */
static const void *
next(Reader *reader, size_t count, size_t size)
{
	const void *values = reader->bytes + reader->position;

	if (count > (reader->length - reader->position) / size)
		return NULL;
	reader->position += count * size;
	return values;
}

/* Checks one tree, last node first, and fills in its heights. */
static const char *
check_tree(Packed *packed, uint32_t root, uint32_t end, uint32_t feature_count, uint32_t *subtree)
{
	for (uint32_t node = end; node-- > root;)
	{
		double		cut = packed->cuts[node].value;

		if (packed->features[node].value < 0)
		{
			if (packed->features[node].value != -1 || !(cut >= 0 && isfinite(cut)))
				return "a leaf is damaged";
			subtree[node] = 1;
			packed->heights[node] = 0;
		}
		else
		{
			uint32_t	left = node + 1;
			uint32_t	right = left < end ? left + subtree[left] : end;

			if (right >= end || packed->steps[node].value != right - node)
				return "a split has not two children";
			if (packed->features[node].value >= (int64_t) feature_count || isnan(cut) || (packed->missing_left[node] & ~1))
				return "a split is damaged";
			subtree[node] = 1 + subtree[left] + subtree[right];
			packed->heights[node] = 1 + (packed->heights[left] > packed->heights[right] ?
										 packed->heights[left] : packed->heights[right]);
		}
	}
	return subtree[root] == end - root ? NULL : "a tree is several";
}

/* Whether x <= cut is (float) x <= (float) cut for every double x: whether the next double rounds to another float. */
static bool
stands_as_float(double cut)
{
	return isinf(cut) ? cut > 0 : (float) nextafter(cut, INFINITY) > (float) cut;
}

static bool
fits_blocks(const Packed *packed)
{
	for (uint32_t node = 0; node < packed->nodes; node++)
		if (packed->features[node].value >= 0 && (packed->features[node].value > UINT8_MAX || !stands_as_float(packed->cuts[node].value)))
			return false;
	return true;
}

/* How many stages a tree has after its first levels. */
static uint32_t
stages_of(const Forest *forest, const Packed *packed, uint32_t root)
{
	uint32_t	height = packed->heights[root];

	return height > forest->start_levels ? (height - forest->start_levels + LEVELS - 1) / LEVELS : 0;
}

/* As many levels as leave whole blocks below: that makes fewest blocks. */
static uint32_t
top_levels(uint32_t height)
{
	return height == 0 ? 1 : (height - 1) % LEVELS + 1;
}

/* Puts trees of many stages first, keeping their order else, and counts how many walk through each stage. Orders roots, too. */
static void
order_trees(Forest *forest, const Packed *packed, const uint32_t *roots, uint32_t *ordered, const Memory *memory)
{
	uint32_t	highest = 0,
				place = 0;

	for (uint32_t tree = 0; tree < forest->tree_count; tree++)
		if (packed->heights[roots[tree]] > packed->heights[roots[highest]])
			highest = tree;
	forest->start_levels = top_levels(packed->heights[roots[highest]]);
	forest->stage_count = stages_of(forest, packed, roots[highest]);
	forest->place = memory->allocate(memory->kept, forest->tree_count * sizeof(uint32_t));
	forest->walking = memory->allocate(memory->kept, (forest->stage_count + 1) * sizeof(uint32_t));
	memset(forest->walking, 0, (forest->stage_count + 1) * sizeof(uint32_t));
	for (uint32_t tree = 0; tree < forest->tree_count; tree++)
		forest->walking[stages_of(forest, packed, roots[tree])]++;
	/* From how many trees have so many stages to where these begin, then to where they end: how many have more. */
	for (uint32_t stages = forest->stage_count + 1; stages-- > 0;)
	{
		uint32_t	count = forest->walking[stages];

		forest->walking[stages] = place;
		place += count;
	}
	for (uint32_t tree = 0; tree < forest->tree_count; tree++)
	{
		forest->place[tree] = forest->walking[stages_of(forest, packed, roots[tree])]++;
		ordered[forest->place[tree]] = roots[tree];
	}
	for (uint32_t stages = 0; stages < forest->stage_count; stages++)
		forest->walking[stages] = forest->walking[stages + 1];
}

/* Keeps the path lengths that leaves have, each once, notes for each leaf which it is, and returns how many they are. */
static uint32_t
collect_lengths(Forest *forest, const Packed *packed, uint32_t *block_of, const Memory *memory)
{
	double	   *lengths = memory->allocate(memory->scratch, packed->nodes * sizeof(double));
	uint32_t	count = 0,
				bits = 1,
			   *slots;

	while (packed->nodes >> bits)
		bits++;
	slots = memory->allocate(memory->scratch, sizeof(uint32_t) << bits);
	memset(slots, 0xff, sizeof(uint32_t) << bits);
	for (uint32_t node = 0; node < packed->nodes; node++)
	{
		uint64_t	hash;
		uint32_t	slot;

		block_of[node] = UINT32_MAX;
		if (packed->features[node].value >= 0)
			continue;
		memcpy(&hash, &packed->cuts[node], sizeof(hash));
		slot = (uint32_t) (hash * UINT64_C(0x9E3779B97F4A7C15) >> (64 - bits));
		while (slots[slot] != UINT32_MAX && lengths[slots[slot]] != packed->cuts[node].value)
			slot = (slot + 1) & ((UINT32_C(1) << bits) - 1);
		if (slots[slot] == UINT32_MAX)
		{
			slots[slot] = count;
			lengths[count++] = packed->cuts[node].value;
		}
		block_of[node] = slots[slot];
	}
	forest->lengths = memory->allocate(memory->kept, count * sizeof(double));
	memcpy(forest->lengths, lengths, count * sizeof(double));
	return count;
}

/*
 * Finds the nodes of the first levels below a root: seven to split at, then eight. Below a leaf, and from there on where the
 * levels end, a node stands for itself and all that would be below it.
 */
static void
find_nodes(const Packed *packed, uint32_t root, uint32_t levels, uint32_t nodes[SPLITS + EXITS])
{
	nodes[0] = root;
	for (uint32_t split = 0; split < SPLITS; split++)
	{
		uint32_t	node = nodes[split];
		uint32_t	level = (split > 0) + (split > 2);
		bool		splits = packed->features[node].value >= 0 && level < levels;

		nodes[2 * split + 1] = node + splits;
		nodes[2 * split + 2] = splits ? node + packed->steps[node].value : node;
	}
}

static void
find_block_nodes(const Packed *packed, uint32_t root, uint32_t nodes[SPLITS + EXITS])
{
	find_nodes(packed, root, top_levels(packed->heights[root]), nodes);
}

/* Fills in a split, and which bit says where a missing value goes. Where a node stands for what is below it, all rows go left. */
static void
fill_split(const Packed *packed, const uint32_t *nodes, uint32_t split, float *cut, uint8_t *feature, uint8_t *missing_right, uint32_t bit)
{
	uint32_t	node = nodes[split];

	*cut = INFINITY;
	if (nodes[2 * split + 1] == node)
		return;
	*cut = (float) packed->cuts[node].value;
	*feature = (uint8_t) packed->features[node].value;
	*missing_right |= (uint8_t) (!packed->missing_left[node] << bit);
}

static void
fill_block(Block *block, const Packed *packed, uint32_t root, const uint32_t *block_of)
{
	uint32_t	nodes[SPLITS + EXITS];

	memset(block, 0, sizeof(Block));
	find_block_nodes(packed, root, nodes);
	for (uint32_t split = 0; split < SPLITS; split++)
		fill_split(packed, nodes, split, &block->cut[split], &block->feature[split], &block->missing_right, split);
	for (uint32_t exit = 0; exit < EXITS; exit++)
		forest_set_exit(block, exit, block_of[nodes[SPLITS + exit]]);
}

/* Fills in one of the trees of a start. */
static void
fill_start(const Forest *forest, uint32_t place, const Packed *packed, const uint32_t nodes[SPLITS + EXITS], const uint32_t *block_of)
{
	Start	   *start = &forest->starts[place / ABREAST];
	uint32_t	n = place % ABREAST;
	uint32_t	exits = UINT32_C(1) << forest->start_levels;

	for (uint32_t split = 0; split < exits - 1; split++)
		fill_split(packed, nodes, split, &start->cut[split][n], &start->feature[split][n], &start->missing_right[split], n);
	for (uint32_t exit = 0; exit < exits; exit++)
		start->next[exit][n] = block_of[nodes[exits - 1 + exit]];
}

/* Takes note of blocks that are to be made: below so many nodes, unless they are leaves. */
static void
begin_blocks(const uint32_t *nodes, uint32_t node_count, uint32_t *block_of, uint32_t leaves, uint32_t *begun, uint32_t *count)
{
	for (uint32_t n = 0; n < node_count; n++)
		if (block_of[nodes[n]] == UINT32_MAX)
		{
			block_of[nodes[n]] = leaves + *count;
			begun[(*count)++] = nodes[n];
		}
}

/* Lays the forest out in starts and blocks: leaves first, one for each path length, then stage by stage. */
static void
lay_out_blocks(Forest *forest, const Packed *packed, const uint32_t *roots, const Memory *memory)
{
	uint32_t   *block_of = memory->allocate(memory->scratch, packed->nodes * sizeof(uint32_t));
	uint32_t	leaves = collect_lengths(forest, packed, block_of, memory);
	uint32_t   *begun = memory->allocate(memory->scratch, packed->nodes * sizeof(uint32_t));
	uint32_t	count = 0,
				start_count = (forest->tree_count + ABREAST - 1) / ABREAST,
				exits = UINT32_C(1) << forest->start_levels;
	uint32_t	nodes[SPLITS + EXITS];
	uint8_t    *space;

	forest->starts = memory->allocate(memory->kept, start_count * sizeof(Start));
	memset(forest->starts, 0, start_count * sizeof(Start));
	for (uint32_t place = 0; place < forest->tree_count; place++)
	{
		find_nodes(packed, roots[place], forest->start_levels, nodes);
		begin_blocks(nodes + exits - 1, exits, block_of, leaves, begun, &count);
		fill_start(forest, place, packed, nodes, block_of);
	}
	for (uint32_t block = 0; block < count; block++)
	{
		find_block_nodes(packed, begun[block], nodes);
		begin_blocks(nodes + SPLITS, EXITS, block_of, leaves, begun, &count);
	}
	space = memory->allocate(memory->kept, (leaves + count + 1) * sizeof(Block));
	forest->blocks = (Block *) (space + (-(uintptr_t) space) % sizeof(Block));
	for (uint32_t leaf = 0; leaf < leaves; leaf++)
	{
		Block	   *block = &forest->blocks[leaf];

		memset(block, 0, sizeof(Block));
		for (uint32_t split = 0; split < SPLITS; split++)
			block->cut[split] = INFINITY;
		for (uint32_t exit = 0; exit < EXITS; exit++)
			forest_set_exit(block, exit, leaf);
	}
	for (uint32_t block = 0; block < count; block++)
		fill_block(&forest->blocks[leaves + block], packed, begun[block], block_of);
}

static void
lay_out_nodes(Forest *forest, const Packed *packed, const uint32_t *roots, const Memory *memory)
{
	forest->first = memory->allocate(memory->kept, forest->tree_count * sizeof(uint32_t));
	memcpy(forest->first, roots, forest->tree_count * sizeof(uint32_t));
	forest->nodes = memory->allocate(memory->kept, packed->nodes * sizeof(TreeNode));
	for (uint32_t node = 0; node < packed->nodes; node++)
		forest->nodes[node] = (TreeNode) {packed->cuts[node].value, packed->steps[node].value, packed->features[node].value, packed->missing_left[node]};
}

Forest *
forest_read(const uint8_t *bytes, size_t length, const Memory *memory, const char **why)
{
	Reader		reader = {bytes, length, sizeof(magic)};
	Packed		packed;
	Forest	   *forest = memory->allocate(memory->kept, sizeof(Forest));
	const StoredDouble *divisor;
	const StoredUint *counts;
	uint32_t   *roots,
			   *subtree;
	uint32_t	root = 0;

	memset(forest, 0, sizeof(Forest));
	*why = "it has an unknown format";
	if (length < sizeof(magic) || memcmp(bytes, magic, sizeof(magic)) != 0)
		return NULL;
	*why = "it is cut off";
	if (!(divisor = next(&reader, 1, sizeof(double))) || !(counts = next(&reader, 3, sizeof(uint32_t))))
		return NULL;
	forest->divisor = divisor->value;
	forest->feature_count = counts[0].value;
	forest->tree_count = counts[1].value;
	packed.nodes = counts[2].value;
	*why = "its size is out of range";
	if (!(forest->divisor >= 0 && isfinite(forest->divisor)) || forest->feature_count < 1 || forest->feature_count > MAX_FEATURES ||
		forest->tree_count < 1 || forest->tree_count > MAX_TREES || packed.nodes < 1 || packed.nodes > MAX_NODES)
		return NULL;
	*why = "it is cut off";
	if (!(packed.sizes = next(&reader, forest->tree_count, sizeof(uint32_t))) ||
		!(packed.features = next(&reader, packed.nodes, sizeof(int16_t))) ||
		!(packed.missing_left = next(&reader, packed.nodes, sizeof(int8_t))) ||
		!(packed.steps = next(&reader, packed.nodes, sizeof(uint32_t))) ||
		!(packed.cuts = next(&reader, packed.nodes, sizeof(double))))
		return NULL;
	forest->encoders = reader.position;
	roots = memory->allocate(memory->scratch, forest->tree_count * sizeof(uint32_t));
	subtree = memory->allocate(memory->scratch, packed.nodes * sizeof(uint32_t));
	packed.heights = memory->allocate(memory->scratch, packed.nodes * sizeof(uint32_t));
	for (uint32_t tree = 0; tree < forest->tree_count; root += packed.sizes[tree++].value)
	{
		*why = "its trees have not as many nodes as it has";
		if (packed.sizes[tree].value < 1 || packed.sizes[tree].value > packed.nodes - root)
			return NULL;
		roots[tree] = root;
		if ((*why = check_tree(&packed, root, root + packed.sizes[tree].value, forest->feature_count, subtree)))
			return NULL;
	}
	*why = "its trees have not as many nodes as it has";
	if (root != packed.nodes)
		return NULL;
	forest->in_blocks = fits_blocks(&packed);
	if (forest->in_blocks)
	{
		uint32_t   *ordered = memory->allocate(memory->scratch, forest->tree_count * sizeof(uint32_t));

		order_trees(forest, &packed, roots, ordered, memory);
		lay_out_blocks(forest, &packed, ordered, memory);
	}
	else
		lay_out_nodes(forest, &packed, roots, memory);
	*why = NULL;
	return forest;
}
