#include "judge.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"

#include <math.h>

#include "tell.h"

#define FARTHEST 1e6
#define NEAREST 1e-140
#define LEVELS 4
#define ORDINARY 119			/* quantiles, see relief_runtime.ordinary */

enum Figure {COUNT, MEAN, STDDEV, MEDIAN, SPREAD, SPREAD_FLOOR, FIGURES};

typedef enum Known {NO, YES, UNKNOWN} Known;

static const char *const level_names[LEVELS] = {"global", "season", "entity", "entity and season"};

typedef struct History
{
	int			level;			/* -1: there is none */
	double		mean;
	double		stddev;
	double		median;
	double		spread;
	double		expected;
	Numeric		shown;			/* expected, rounded; NULL if not finite */
} History;

typedef struct Feature
{
	JsonbValue	name;
	bool		is_log;
	double		unit;
	double		origin;
	JsonbContainer *tolerances;
} Feature;

struct Rule
{
	int			feature_count;
	Feature    *features;
	History    *everywhere;		/* of all rows together */
	bool		categories_alone;
	double		threshold;
	Numeric		exact_threshold;
	Numeric		version;
	char	   *verdict;
	double		deviation_threshold;
	double		min_history;
	double	   *ordinary_scores;	/* NULL if unknown */
	double	   *ordinary_deviations;
};

/* ---- Reading a rule ---- */

static void
refuse_rule(const char *name)
{
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("rule cannot be loaded: '%s'", name)));
}

static JsonbValue *
member(JsonbContainer *object, const char *name, enum jbvType type, bool nullable)
{
	JsonbValue *value = getKeyJsonValueFromContainer(object, name, strlen(name), NULL);

	if (value != NULL && value->type == jbvNull && nullable)
		return NULL;
	if (value == NULL || value->type != type)
		refuse_rule(name);
	return value;
}

/* Returns an object, or a list, that has a name for errors. */
static JsonbContainer *
container(const JsonbValue *value, bool is_list, const char *name)
{
	if (value == NULL || value->type != jbvBinary || (JsonContainerIsArray(value->val.binary.data) != 0) != is_list)
		refuse_rule(name);
	return value->val.binary.data;
}

static double
to_double(const JsonbValue *value)
{
	if (value->type == jbvNumeric)
		return DatumGetFloat8(DirectFunctionCall1(numeric_float8, NumericGetDatum(value->val.numeric)));
	/* What JSON has no number for comes as a text, such as "Infinity". */
	if (value->type == jbvString)
		return DatumGetFloat8(DirectFunctionCall1(float8in, CStringGetDatum(pnstrdup(value->val.string.val, value->val.string.len))));
	return NAN;
}

static double
number(JsonbContainer *object, const char *name)
{
	return to_double(member(object, name, jbvNumeric, false));
}

static char *
string(JsonbContainer *object, const char *name)
{
	JsonbValue *value = member(object, name, jbvString, false);

	return pnstrdup(value->val.string.val, value->val.string.len);
}

/* Returns the numbers of a list, null as NaN; NULL where there is no list. */
static double *
numbers(JsonbContainer *object, const char *name, int *count)
{
	JsonbValue *value = member(object, name, jbvBinary, true);
	JsonbContainer *list = value == NULL ? NULL : container(value, true, name);
	double	   *values;

	*count = list == NULL ? 0 : JsonContainerSize(list);
	if (*count == 0)
		return NULL;
	values = palloc(*count * sizeof(double));
	for (int n = 0; n < *count; n++)
	{
		value = getIthJsonbValueFromContainer(list, n);
		values[n] = to_double(value);
		pfree(value);
	}
	return values;
}

static double *
ordinary(JsonbContainer *object, const char *name)
{
	int			count;
	double	   *values = numbers(object, name, &count);

	if (count != 0 && count != ORDINARY)
		refuse_rule(name);
	return values;
}

static double
unscaled(const Feature *feature, double place)
{
	place += feature->origin;
	if (!feature->is_log)
		return place;
	if (fabs(place) < 300)
		return feature->unit * sinh(place);
	return copysign(exp(fmin(fabs(place) + log(feature->unit) - log(2), 709.0)), place);
}

/* Fills in the histories that are still to be chosen, from levels of which the finest comes first. */
static void
choose(const Rule *rule, const double *levels, int count, History *chosen)
{
	int			d = rule->feature_count;

	if (count % (1 + FIGURES * d) != 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("row cannot be judged: its histories are damaged")));
	for (const double *level = levels; level < levels + count; level += 1 + FIGURES * d)
		for (int n = 0; n < d; n++)
		{
			const double *figures = level + 1 + n;
			double		least = isnan(figures[SPREAD_FLOOR * d]) ? 0 : figures[SPREAD_FLOOR * d];
			History    *history = &chosen[n];
			char		shown[32];

			if (history->level >= 0 || !(figures[COUNT * d] >= rule->min_history) ||
				!isfinite(figures[MEAN * d]) || !isfinite(figures[MEDIAN * d]))
				continue;
			history->level = level[0] >= 0 && level[0] < LEVELS ? (int) level[0] : 0;
			history->mean = figures[MEAN * d];
			history->median = figures[MEDIAN * d];
			history->stddev = fmax(figures[STDDEV * d], least);
			history->spread = fmax(figures[SPREAD * d], least);
			history->expected = unscaled(&rule->features[n], history->mean);
			if (!isfinite(history->expected))
				continue;
			/* To six significant digits: more would pretend. */
			snprintf(shown, sizeof(shown), "%.6g", history->expected);
			history->shown = DatumGetNumeric(DirectFunctionCall3(numeric_in, CStringGetDatum(shown), 0, Int32GetDatum(-1)));
		}
}

static History *
no_histories(const Rule *rule)
{
	History    *histories = palloc0(rule->feature_count * sizeof(History));

	for (int n = 0; n < rule->feature_count; n++)
		histories[n].level = -1;
	return histories;
}

Rule *
rule_read(const Jsonb *parsed)
{
	Jsonb	   *content = DatumGetJsonbPCopy(PointerGetDatum(parsed));
	JsonbContainer *root = &content->root;
	JsonbContainer *features;
	JsonbValue *version;
	Rule	   *rule = palloc0(sizeof(Rule));
	double	   *figures;
	int			count;

	if (!JB_ROOT_IS_OBJECT(content))
		refuse_rule("features");
	features = container(member(root, "features", jbvBinary, false), true, "features");
	rule->feature_count = JsonContainerSize(features);
	rule->features = palloc0(rule->feature_count * sizeof(Feature));
	rule->categories_alone = true;
	for (int n = 0; n < rule->feature_count; n++)
	{
		Feature    *feature = &rule->features[n];
		JsonbContainer *told = container(getIthJsonbValueFromContainer(features, n), false, "features");

		feature->name = *member(told, "name", jbvString, false);
		feature->is_log = strcmp(string(told, "transform"), "log") == 0;
		feature->unit = number(told, "unit");
		feature->origin = number(told, "origin");
		feature->tolerances = container(member(told, "tolerances", jbvBinary, false), false, "tolerances");
		if (strcmp(string(told, "kind"), "category") != 0)
			rule->categories_alone = false;
	}
	version = member(root, "version", jbvNumeric, true);
	rule->version = version ? version->val.numeric : NULL;
	rule->exact_threshold = member(root, "threshold", jbvNumeric, false)->val.numeric;
	rule->threshold = number(root, "threshold");
	rule->verdict = string(root, "verdict");
	rule->deviation_threshold = number(root, "deviation_threshold");
	rule->min_history = number(root, "min_history");
	rule->ordinary_scores = ordinary(root, "ordinary_scores");
	rule->ordinary_deviations = ordinary(root, "ordinary_deviations");
	figures = numbers(root, "history", &count);
	rule->everywhere = no_histories(rule);
	choose(rule, figures, count, rule->everywhere);
	return rule;
}

/* ---- Judging a row ---- */

/* How many spreads a place lies from a center, signed, never beyond FARTHEST. */
static double
deviation(double place, double center, double spread)
{
	double		difference = place - center;

	/* Unless both are infinite. */
	if (spread > 0 && !isnan(difference / spread))
		return fmax(-FARTHEST, fmin(FARTHEST, difference / spread));
	return difference > 0 ? FARTHEST : difference < 0 ? -FARTHEST : 0;
}

/* Rounds as Python does: the decimal number that is nearest to what the double really is. */
static double
rounded(double value, int decimals)
{
	char		digits[64];

	snprintf(digits, sizeof(digits), "%.*f", decimals, value);
	return strtod(digits, NULL);
}

/* Whether a departure is in the direction, and of the size, that the detector's owner cares for. */
static bool
departure_counts(const Feature *feature, double value, double expected, const text *entity)
{
	JsonbValue *tolerance = NULL;
	JsonbContainer *told;
	char	   *direction;
	double		change = value - expected;

	if (entity != NULL)
		tolerance = getKeyJsonValueFromContainer(feature->tolerances, VARDATA_ANY(entity), VARSIZE_ANY_EXHDR(entity), NULL);
	if (tolerance == NULL)
		tolerance = getKeyJsonValueFromContainer(feature->tolerances, "", 0, NULL);
	if (tolerance == NULL)
		return true;
	told = container(tolerance, false, "tolerances");
	direction = string(told, "direction");
	if ((strcmp(direction, "up") == 0 && change < 0) || (strcmp(direction, "down") == 0 && change > 0))
		return false;
	return fabs(change) >= number(told, "min_absolute") && fabs(change) >= number(told, "min_relative") * fabs(expected);
}

static Known
verdict_of(const char *verdict, Known high, Known fires)
{
	if (strcmp(verdict, "score") == 0)
		return high;
	if (strcmp(verdict, "deviation") == 0)
		return fires;
	/* Without history, the forest decides alone; the state in the deviation says so. */
	if (strcmp(verdict, "either") == 0)
		return high == YES || fires == YES ? YES : high;
	return high == NO || fires == NO ? NO : high == YES && fires == YES ? YES : UNKNOWN;
}

/* The share of ordinary values that lie below a value, from their quantiles. */
static double
tail(const double *quantiles, double value)
{
	int			above = 0;
	double		shares[2];

	while (above < ORDINARY && quantiles[above] < value)
		above++;
	if (above == 0 || above == ORDINARY)
		return above > 0;
	for (int n = 0; n < 2; n++)
	{
		int			at = above - 1 + n;

		shares[n] = at < 99 ? at / 100.0 : at < 108 ? 0.99 + (at - 99) / 1000.0 : at < 118 ? 0.999 + (at - 108) / 10000.0 : 1.0;
	}
	return shares[0] + (value - quantiles[above - 1]) / (quantiles[above] - quantiles[above - 1]) * (shares[1] - shares[0]);
}

/* How far a value lies from its history. */
static void
tell_comparison(JsonbParseState **state, double z, double robust, const History *history)
{
	pushJsonbValue(state, WJB_BEGIN_OBJECT, NULL);
	tell_key(state, "z");
	tell_numeric(state, numeric_to_three_decimals(z));
	tell_key(state, "level");
	tell_string(state, level_names[history->level]);
	tell_key(state, "robust");
	tell_numeric(state, numeric_to_three_decimals(robust));
	tell_key(state, "expected");
	tell_numeric(state, history->shown);
	pushJsonbValue(state, WJB_END_OBJECT, NULL);
}

Jsonb *
rule_judge(const Rule *rule, const Row *row, bool in_full)
{
	JsonbParseState *state = NULL;
	JsonbValue	is_anomaly = {.type = jbvNull};
	History    *histories = rule->everywhere;
	Known		high,
				fires = NO,
				verdict;
	bool		known = rule->categories_alone;
	double		far = -1;

	if (row->number_count != rule->feature_count)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("row cannot be judged: rule takes %d features, not %d", rule->feature_count, row->number_count)));
	if (row->level_count > 0)
	{
		histories = no_histories(rule);
		choose(rule, row->levels, row->level_count, histories);
		for (int n = 0; n < rule->feature_count; n++)
			if (histories[n].level < 0)
				histories[n] = rule->everywhere[n];
	}
	for (int n = 0; n < rule->feature_count; n++)
		known = known || histories[n].level >= 0;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	tell_key(&state, "relief_deviation");
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	if (!known)
	{
		tell_key(&state, "state");
		tell_string(&state, "warming up");
	}
	for (int n = 0; known && n < rule->feature_count; n++)
	{
		const Feature *feature = &rule->features[n];
		double		value = fabs(row->numbers[n]) < NEAREST ? 0 : row->numbers[n];
		double		place = (feature->is_log ? asinh(value / feature->unit) : value) - feature->origin;
		double		z = deviation(place, histories[n].mean, histories[n].stddev);
		double		robust = deviation(place, histories[n].median, histories[n].spread);
		double		agreed = fmin(fabs(z), fabs(robust));

		pushJsonbValue(&state, WJB_KEY, unconstify(JsonbValue *, &feature->name));
		if (histories[n].level < 0 || isnan(place) || isnan(agreed))
		{
			tell_numeric(&state, NULL);
			continue;
		}
		tell_comparison(&state, z, robust, &histories[n]);
		far = fmax(far, agreed);
		if (agreed > rule->deviation_threshold - 1e-3 && rounded(agreed, 3) >= rule->deviation_threshold &&
			departure_counts(feature, row->numbers[n], histories[n].expected, row->entity))
			fires = YES;
	}
	pushJsonbValue(&state, WJB_END_OBJECT, NULL);

	high = row->score == NULL ? UNKNOWN : *row->score >= rule->threshold ? YES : NO;
	verdict = verdict_of(rule->verdict, high, known ? fires : UNKNOWN);
	tell_key(&state, "relief_is_anomaly");
	if (verdict != UNKNOWN)
	{
		is_anomaly.type = jbvBool;
		is_anomaly.val.boolean = verdict == YES;
	}
	pushJsonbValue(&state, WJB_VALUE, &is_anomaly);
	tell_key(&state, "relief_anomaly_score");
	tell_numeric(&state, row->score ? numeric_exactly(*row->score) : NULL);
	tell_key(&state, "relief_model_version");
	tell_numeric(&state, rule->version);
	if (in_full)
	{
		double		severity = -1;

		if (row->score && rule->ordinary_scores)
			severity = tail(rule->ordinary_scores, *row->score);
		if (far >= 0 && rule->ordinary_deviations)
			severity = fmax(severity, tail(rule->ordinary_deviations, rounded(far, 3)));
		tell_key(&state, "threshold");
		tell_numeric(&state, rule->exact_threshold);
		tell_key(&state, "verdict");
		tell_string(&state, high == YES ? (fires == YES ? "both" : "score") : fires == YES ? "deviation" : NULL);
		tell_key(&state, "severity");
		tell_numeric(&state, severity >= 0 ? numeric_exactly(rounded(severity, 6)) : NULL);
	}
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}
