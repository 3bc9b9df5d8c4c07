/* What SQL calls: a forest is read once a session, then scores rows. The same contract as relief_runtime.session, see 01_runtime.sql. */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

#include <math.h>

#include "forest.h"
#include "judge.h"
#include "kept.h"

PG_MODULE_MAGIC;

/* A feature that is a category: what stands for each that is listed, for NULL, and for all others. */
typedef struct Encoder
{
	int			position;
	JsonbContainer *values;
	double		missing;
	double		other;
} Encoder;

typedef struct Model
{
	Forest	   *forest;
	int			encoder_count;
	Encoder    *encoders;
} Model;

static Store models = {.limit = 16};
static Store rules = {.limit = 64};
static WalkPath path;

extern void _PG_init(void);
PG_FUNCTION_INFO_V1(relief_have_1);
PG_FUNCTION_INFO_V1(relief_have_rule_1);
PG_FUNCTION_INFO_V1(relief_start_1);
PG_FUNCTION_INFO_V1(relief_load_1);
PG_FUNCTION_INFO_V1(relief_load_rule_1);
PG_FUNCTION_INFO_V1(relief_score_1);
PG_FUNCTION_INFO_V1(relief_judge_1);

void
_PG_init(void)
{
	path = forest_path_exists(AVX512VL) ? AVX512VL : forest_path_exists(AVX2) ? AVX2 : PORTABLE;
}

static text *
empty_text(void)
{
	return cstring_to_text_with_len("", 0);
}

/* Also where SQL declares a function strict, which its owner may change. */
static text *
required_text(FunctionCallInfo fcinfo, int argument)
{
	if (PG_ARGISNULL(argument))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("argument %d is NULL", argument + 1)));
	return PG_GETARG_TEXT_PP(argument);
}

/* Returns an empty text if this session holds the model with this checksum, else NULL. */
Datum
relief_have_1(PG_FUNCTION_ARGS)
{
	if (kept_find(&models, required_text(fcinfo, 0)) == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(empty_text());
}

Datum
relief_have_rule_1(PG_FUNCTION_ARGS)
{
	if (kept_find(&models, required_text(fcinfo, 0)) == NULL || kept_find(&rules, required_text(fcinfo, 1)) == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(empty_text());
}

/* The kernel needs no start. */
Datum
relief_start_1(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(empty_text());
}

static void
refuse_model(const char *why)
{
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("model cannot be loaded: %s", why)));
}

static double
number_of(const JsonbValue *value)
{
	if (value == NULL || value->type != jbvNumeric)
		refuse_model("an encoder is damaged");
	return DatumGetFloat8(DirectFunctionCall1(numeric_float8, NumericGetDatum(value->val.numeric)));
}

/* Parses what encodes categories, which is JSON: [[position, {category: number, ...}, missing, other], ...]; NULL without any. */
static Jsonb *
parse_encoders(const char *bytes, size_t length)
{
	char	   *content = pnstrdup(bytes, length);
	Jsonb	   *parsed;

	if (length == 0)
		return NULL;
	if (strlen(content) != length)
		refuse_model("its encoders are damaged");
	content = pg_any_to_server(content, length, PG_UTF8);
	parsed = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(content)));
	if (!JB_ROOT_IS_ARRAY(parsed) || JB_ROOT_IS_SCALAR(parsed))
		refuse_model("its encoders are damaged");
	return parsed;
}

/* Reads encoders into the current memory context, where all of them are. */
static void
read_encoders(Model *model, const Jsonb *parsed)
{
	Jsonb	   *list = DatumGetJsonbPCopy(PointerGetDatum(parsed));

	model->encoder_count = JB_ROOT_COUNT(list);
	model->encoders = palloc(model->encoder_count * sizeof(Encoder));
	for (int n = 0; n < model->encoder_count; n++)
	{
		JsonbValue *parts = getIthJsonbValueFromContainer(&list->root, n);
		JsonbContainer *container = parts->type == jbvBinary ? parts->val.binary.data : NULL;
		JsonbValue *values;
		double		position;

		if (container == NULL || !JsonContainerIsArray(container) || JsonContainerSize(container) != 4)
			refuse_model("an encoder is damaged");
		position = number_of(getIthJsonbValueFromContainer(container, 0));
		values = getIthJsonbValueFromContainer(container, 1);
		if (!(position >= 0 && position < model->forest->feature_count) || values->type != jbvBinary ||
			!JsonContainerIsObject(values->val.binary.data))
			refuse_model("an encoder is damaged");
		model->encoders[n] = (Encoder) {(int) position, values->val.binary.data,
			number_of(getIthJsonbValueFromContainer(container, 2)), number_of(getIthJsonbValueFromContainer(container, 3))};
	}
}

static void *
allocate(void *place, size_t size)
{
	return MemoryContextAlloc((MemoryContext) place, size);
}

/* Keeps a packed forest under its checksum; arguments: what was started, key, forest. */
Datum
relief_load_1(PG_FUNCTION_ARGS)
{
	text	   *key = required_text(fcinfo, 1);
	bytea	   *packed;
	Memory		memory = {allocate, NULL, CurrentMemoryContext};
	MemoryContext kept;
	MemoryContext before;
	Forest	   *forest;
	Jsonb	   *encoders;
	Model	   *model;
	const char *why;

	if (PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_NO_DATA),
				 errmsg("model with checksum \"%s\" is not stored any more", text_to_cstring(key)),
				 errhint("Promote a stored version: select relief.promote('<detector>');")));
	packed = PG_GETARG_BYTEA_PP(2);
	kept_check_key(key, packed, "model");
	/* Under the current one until it is whole: an error takes both away. */
	kept = AllocSetContextCreate(CurrentMemoryContext, "relief model", ALLOCSET_SMALL_SIZES);
	memory.kept = kept;
	forest = forest_read((uint8 *) VARDATA_ANY(packed), VARSIZE_ANY_EXHDR(packed), &memory, &why);
	if (forest == NULL)
		refuse_model(why);
	encoders = parse_encoders(VARDATA_ANY(packed) + forest->encoders, VARSIZE_ANY_EXHDR(packed) - forest->encoders);
	before = MemoryContextSwitchTo(kept);
	model = palloc0(sizeof(Model));
	model->forest = forest;
	if (encoders != NULL)
		read_encoders(model, encoders);
	MemoryContextSwitchTo(before);
	kept_add(&models, key, kept, model);
	PG_RETURN_TEXT_P(empty_text());
}

/* Keeps a rule under the checksum of its text; arguments: key, rule, what was loaded. */
Datum
relief_load_rule_1(PG_FUNCTION_ARGS)
{
	text	   *key = required_text(fcinfo, 0);
	text	   *rule = required_text(fcinfo, 1);
	char	   *utf8 = pg_server_to_any(VARDATA_ANY(rule), VARSIZE_ANY_EXHDR(rule), PG_UTF8);
	Datum		parsed;
	MemoryContext kept;
	MemoryContext before;
	Rule	   *read;

	kept_check_key(key, utf8 == VARDATA_ANY(rule) ? rule : cstring_to_text(utf8), "rule");
	parsed = DirectFunctionCall1(jsonb_in, CStringGetDatum(text_to_cstring(rule)));
	kept = AllocSetContextCreate(CurrentMemoryContext, "relief rule", ALLOCSET_SMALL_SIZES);
	before = MemoryContextSwitchTo(kept);
	read = rule_read(DatumGetJsonbP(parsed));
	MemoryContextSwitchTo(before);
	kept_add(&rules, key, kept, read);
	PG_RETURN_TEXT_P(empty_text());
}

static void
refuse_row(const char *verb, const char *what, int takes, int has)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("row cannot be %s: model takes %d %s, not %d", verb, takes, what, has)));
}

static void *
find(Store *store, FunctionCallInfo fcinfo, int argument, const char *verb)
{
	void	   *value = PG_ARGISNULL(argument) ? NULL : kept_find(store, PG_GETARG_TEXT_PP(argument));

	if (value == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("row cannot be %s: '%s'", verb, PG_ARGISNULL(argument) ? "" : text_to_cstring(PG_GETARG_TEXT_PP(argument)))));
	return value;
}

/* Returns the values of an array, NULL as NaN. */
static double *
doubles_of(ArrayType *array, int *count)
{
	double	   *values;
	double	   *source = (double *) ARR_DATA_PTR(array);
	bits8	   *present = ARR_NULLBITMAP(array);

	*count = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
	values = palloc(Max(*count, 1) * sizeof(double));
	if (present == NULL)
		memcpy(values, source, *count * sizeof(double));
	else
		for (int n = 0; n < *count; n++)
			values[n] = present[n / 8] & (1 << n % 8) ? *source++ : NAN;
	return values;
}

/* Puts numbers in the places of categories; a row of which nothing is given stays as it is. */
static void
encode_row(const Model *model, double *row, ArrayType *categories, const char *verb)
{
	Datum	   *texts = NULL;
	bool	   *missing = NULL;
	int			count = 0;
	bool		given = false;

	if (categories != NULL)
		deconstruct_array(categories, TEXTOID, -1, false, TYPALIGN_INT, &texts, &missing, &count);
	if (count != model->encoder_count)
		refuse_row(verb, "categories", model->encoder_count, count);
	for (int n = 0; n < count; n++)
		given = given || !missing[n];
	for (uint32 n = 0; n < model->forest->feature_count; n++)
		given = given || !isnan(row[n]);
	for (int n = 0; given && n < count; n++)
	{
		Encoder    *encoder = &model->encoders[n];
		JsonbValue	place;
		JsonbValue *found = NULL;

		if (!missing[n])
			found = getKeyJsonValueFromContainer(encoder->values, VARDATA_ANY(DatumGetPointer(texts[n])),
												 VARSIZE_ANY_EXHDR(DatumGetPointer(texts[n])), &place);
		row[encoder->position] = missing[n] ? encoder->missing : found ? number_of(found) : encoder->other;
	}
}

/* Returns the score of a row, its categories encoded in a copy; NULL if every feature is missing. */
static double *
score_row(const Model *model, const double *numbers, int count, ArrayType *categories, const char *verb)
{
	double		row[MAX_FEATURES];
	double	   *score = palloc(sizeof(double));

	if (count != (int) model->forest->feature_count)
		refuse_row(verb, "features", model->forest->feature_count, count);
	memcpy(row, numbers, count * sizeof(double));
	if (model->encoder_count > 0 || categories != NULL)
		encode_row(model, row, categories, verb);
	return forest_score(model->forest, path, row, score) ? score : NULL;
}

/* Returns the score of a row; arguments: key, what was loaded, numbers, categories. */
Datum
relief_score_1(PG_FUNCTION_ARGS)
{
	Model	   *model = find(&models, fcinfo, 0, "scored");
	int			count = 0;
	double	   *numbers = PG_ARGISNULL(2) ? NULL : doubles_of(PG_GETARG_ARRAYTYPE_P(2), &count);
	double	   *score = score_row(model, numbers, count, PG_ARGISNULL(3) ? NULL : PG_GETARG_ARRAYTYPE_P(3), "scored");

	if (score == NULL)
		PG_RETURN_NULL();
	PG_RETURN_FLOAT8(*score);
}

/* Scores and judges a row; arguments: key, rule's key, what was loaded, numbers, categories, entity, levels, in full. */
Datum
relief_judge_1(PG_FUNCTION_ARGS)
{
	Model	   *model = find(&models, fcinfo, 0, "judged");
	Rule	   *rule = find(&rules, fcinfo, 1, "judged");
	Row			row = {0};

	row.numbers = PG_ARGISNULL(3) ? NULL : doubles_of(PG_GETARG_ARRAYTYPE_P(3), &row.number_count);
	row.score = score_row(model, row.numbers, row.number_count, PG_ARGISNULL(4) ? NULL : PG_GETARG_ARRAYTYPE_P(4), "judged");
	row.entity = PG_ARGISNULL(5) ? NULL : PG_GETARG_TEXT_PP(5);
	row.levels = PG_ARGISNULL(6) ? NULL : doubles_of(PG_GETARG_ARRAYTYPE_P(6), &row.level_count);
	PG_RETURN_JSONB_P(rule_judge(rule, &row, !PG_ARGISNULL(7) && PG_GETARG_BOOL(7)));
}
