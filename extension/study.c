/*
 * Studies: named sets of runs.  A study is made when a run first names it and belongs to that run's owner.
 */
#include "study.h"

#include "catalog/pg_type.h"

#define LONGEST_NAME 200 /* bytes */

/* Its owner; NULL when there is no such study.  lock: SQL's name of the lock to take on its row, or "". */
static char *study_owner(const char *study, const char *lock)
{
    Oid types[] = {TEXTOID};
    Datum values[] = {CStringGetTextDatum(study)};

    tlaw_execute(SPI_OK_SELECT, psprintf("SELECT owner FROM @.tlaw_study WHERE study = $1 %s", lock), 1,
                 types, values, NULL);
    return SPI_processed == 0 ? NULL : SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
}

static void require(const char *study, const char *owner)
{
    char *name = psprintf("\"%s\"", study);

    tlaw_require_owner(owner, "study", name);
    pfree(name);
}

void study_use(const char *study)
{
    Oid types[] = {TEXTOID, NAMEOID};
    Datum values[] = {CStringGetTextDatum(study), CStringGetDatum(tlaw_caller_name())};
    char *owner;

    if (study[0] == '\0' || strlen(study) > LONGEST_NAME)
        ereport(ERROR,
                (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                 errmsg("study must be a name of 1 to %d bytes, not \"%.250s\"", LONGEST_NAME, study)));
    owner = study_owner(study, "FOR KEY SHARE"); /* it is not dropped before this transaction ends */
    if (owner == NULL) {
        tlaw_execute(SPI_OK_INSERT,
                     "INSERT INTO @.tlaw_study (study, owner) VALUES ($1, $2) ON CONFLICT DO NOTHING", 2,
                     types, values, NULL);
        owner = study_owner(study, "FOR KEY SHARE"); /* somebody else's when two made it at once */
    }
    if (owner == NULL)
        ereport(ERROR, (errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
                        errmsg("study \"%s\" was made by a transaction that this one cannot see", study)));
    require(study, owner);
}

/* Likewise; an error where there is none. */
static char *existing_study_owner(const char *study, const char *lock)
{
    char *owner = study_owner(study, lock);

    if (owner == NULL)
        ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("study \"%s\" does not exist", study),
                        errdetail("A study begins with the first run that names it.")));
    return owner;
}

void study_require(const char *study, bool lock)
{
    require(study, existing_study_owner(study, lock ? "FOR UPDATE" : ""));
}

void study_hold(const char *study)
{
    existing_study_owner(study, "FOR KEY SHARE");
}
