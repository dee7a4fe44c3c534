-- From an OMOP database to a query table: a row per operation. All images of the patient are asked for; which of them
-- are wanted, a selection says by their days from the operation (anchor_date).
--
-- queryfile: omop.duckdb, sql: omop/operations.sql; or sql_conn, with the connection of your OMOP database.
SELECT
    person.person_source_value AS "PatientID",
    operation.procedure_occurrence_id AS row_id,
    operation.procedure_date AS anchor_date,           -- a date; a timestamp with a time of day is refused
    -- Further columns go into the protected linker only, if `columns` is given: columns: PatientID = PatientID.
    operation.procedure_source_value AS operation,
    visit.care_site_source_value AS ward,
    year(operation.procedure_date) - person.year_of_birth AS about_years_old
FROM procedure_occurrence AS operation
JOIN person USING (person_id)
LEFT JOIN visit_occurrence AS visit USING (visit_occurrence_id)
WHERE operation.procedure_concept_id = 2000000001
  AND person.person_source_value IS NOT NULL          -- a row without PatientID would ask for nothing
ORDER BY row_id
