-- From an OMOP database with the imaging extension to a query table: a row per operation and study that the database
-- knows within 30 days of it.
--
-- image_occurrence has a row per series. DISTINCT makes it one per study: else each study would be asked for as often as it
-- has series. Nothing else can be asked by a study's UID than this study, whatever the archive has.
SELECT DISTINCT
    person.person_source_value AS "PatientID",
    image.image_study_uid AS "StudyInstanceUID",
    operation.procedure_occurrence_id AS row_id,
    operation.procedure_date AS anchor_date
FROM procedure_occurrence AS operation
JOIN person USING (person_id)
JOIN image_occurrence AS image USING (person_id)
WHERE operation.procedure_concept_id = 2000000001
  AND abs(image.image_occurrence_date - operation.procedure_date) <= 30
ORDER BY row_id, "StudyInstanceUID"
