/* Judges rows as relief_runtime.judgement does: by a rule, which is read from its JSON once a session. */
#ifndef RELIEF_JUDGE_H
#define RELIEF_JUDGE_H

#include "postgres.h"
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

#include "utils/jsonb.h"

typedef struct Rule Rule;

/* A row's features, missing ones NaN, and the histories of its entity and season: levels as relief._levels gives them. */
typedef struct Row
{
	const double *score;		/* NULL if there is none */
	const double *numbers;
	int			number_count;
	const text *entity;			/* NULL or empty without one */
	const double *levels;
	int			level_count;	/* of numbers in levels */
} Row;

/* Reads a rule into the current memory context, where all of it is. */
extern Rule *rule_read(const Jsonb *parsed);

/* Returns the companion columns, and in full also threshold, verdict and severity; see judgement.Rule.judge. */
extern Jsonb *rule_judge(const Rule *rule, const Row *row, bool in_full);

#endif
