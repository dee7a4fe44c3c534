-- A small OMOP common data model (version 5.4) with the imaging extension: a made-up hospital, whose patients are those
-- of the demonstration's PACS. `python -m pacsifier_ops.onebox.omop omop.duckdb` makes a DuckDB database of it.
-- Concepts above 2,000,000,000 are a site's own.

CREATE TABLE person (
    person_id BIGINT PRIMARY KEY, gender_concept_id INTEGER, year_of_birth INTEGER, month_of_birth INTEGER,
    day_of_birth INTEGER, person_source_value VARCHAR  -- the medical record number, which the PACS has as PatientID
);
INSERT INTO person VALUES
    (1, 0, 1980, 2, 14, '123421'), (2, 0, 1955, 11, 30, '45322'), (3, 0, 1961, 7, 8, '124588'),
    (4, 0, 1948, 3, 5, '200311'), (5, 0, 1992, 6, 11, '300115'), (6, 0, 2003, 3, 3, '200316'),
    (7, 0, 1984, 2, 29, 'PT 01'), (8, 0, 1990, 1, 1, 'A-1'), (9, 0, 1977, 7, 7, '021234567'),
    (10, 0, 1966, 6, 6, '700001'),  -- has no images
    (11, 0, 1933, 3, 3, NULL);      -- is not in the PACS at all

CREATE TABLE visit_occurrence (
    visit_occurrence_id BIGINT PRIMARY KEY, person_id BIGINT, visit_concept_id INTEGER, visit_start_date DATE,
    visit_end_date DATE, care_site_source_value VARCHAR
);
INSERT INTO visit_occurrence VALUES
    (501, 1, 9201, '2015-05-11', '2015-05-29', 'Neurosurgery'), (502, 2, 9201, '2016-03-30', '2016-04-12', 'Thoracic surgery'),
    (503, 3, 9201, '2015-05-28', '2015-06-20', 'Visceral surgery'), (504, 4, 9201, '2018-01-02', '2018-01-19', 'Neurosurgery'),
    (505, 5, 9201, '2017-02-27', '2017-03-11', 'Heart surgery'), (506, 6, 9201, '2022-07-04', '2022-07-30', 'Traumatology'),
    (507, 7, 9201, '2020-03-09', '2020-03-12', 'Orthopaedics'), (508, 8, 9201, '2021-04-30', '2021-05-09', 'Spine surgery'),
    (509, 9, 9201, '2005-11-30', '2005-12-03', 'Neurosurgery'), (510, 10, 9201, '2019-09-09', '2019-09-12', 'Urology'),
    (511, 11, 9201, '2019-09-09', '2019-09-12', 'Urology');

CREATE TABLE procedure_occurrence (
    procedure_occurrence_id BIGINT PRIMARY KEY, person_id BIGINT, procedure_concept_id INTEGER, procedure_date DATE,
    procedure_datetime TIMESTAMP, visit_occurrence_id BIGINT, procedure_source_value VARCHAR
);
INSERT INTO procedure_occurrence VALUES  -- 2000000001: an operation, 2000000002: an examination with images
    (9001, 1, 2000000001, '2015-05-20', '2015-05-20 08:10', 501, 'craniotomy'),
    (9002, 2, 2000000001, '2016-04-01', '2016-04-01 13:30', 502, 'lobectomy'),
    (9003, 3, 2000000001, '2015-05-30', '2015-05-30 09:00', 503, 'laparotomy'),
    (9004, 3, 2000000001, '2015-06-12', '2015-06-12 22:45', 503, 'relaparotomy'),
    (9005, 4, 2000000001, '2018-01-04', '2018-01-04 07:50', 504, 'craniotomy'),
    (9006, 5, 2000000001, '2017-03-01', '2017-03-01 08:00', 505, 'valve replacement'),
    (9007, 6, 2000000001, '2022-07-04', '2022-07-04 17:20', 506, 'osteosynthesis'),
    (9008, 7, 2000000001, '2020-03-10', '2020-03-10 10:00', 507, 'arthroscopy'),
    (9009, 8, 2000000001, '2021-05-01', '2021-05-01 08:00', 508, 'spondylodesis'),
    (9010, 9, 2000000001, '2005-12-01', '2005-12-01 08:00', 509, 'craniotomy'),
    (9011, 10, 2000000001, '2019-09-10', '2019-09-10 08:00', 510, 'prostatectomy'),
    (9012, 11, 2000000001, '2019-09-10', '2019-09-10 08:00', 511, 'prostatectomy'),
    (9101, 1, 2000000002, '2015-05-12', '2015-05-12 08:30', 501, 'CT head'),
    (9102, 1, 2000000002, '2015-06-01', '2015-06-01 14:15', NULL, 'MR head'),
    (9103, 2, 2000000002, '2016-03-10', '2016-03-10 09:10', NULL, 'CT thorax'),
    (9104, 4, 2000000002, '2018-01-02', '2018-01-02 07:45', 504, 'CT head');

CREATE TABLE image_occurrence (  -- the imaging extension: a row per series
    image_occurrence_id BIGINT PRIMARY KEY, person_id BIGINT, procedure_occurrence_id BIGINT, visit_occurrence_id BIGINT,
    image_occurrence_date DATE, image_study_uid VARCHAR, image_series_uid VARCHAR, modality_concept_id INTEGER
);
INSERT INTO image_occurrence VALUES  -- 2000000011: CT, 2000000012: MR
    (701, 1, 9101, 501, '2015-05-12',
     '2.25.226351790868974706678804644504991140715', '2.25.133541382167739468310388533706489599719', 2000000011),
    (702, 1, 9101, 501, '2015-05-12',
     '2.25.226351790868974706678804644504991140715', '2.25.236531841725131622225792695309703918996', 2000000011),
    (703, 1, 9102, NULL, '2015-06-01',
     '2.25.78058244673498182106022597909444217716', '2.25.275583091168891882529481460727577036650', 2000000012),
    (704, 2, 9103, NULL, '2016-03-10',
     '2.25.168199695797761244480283303317120856014', '2.25.233206153304377059792394615346512523023', 2000000011),
    (705, 2, 9103, NULL, '2016-03-10',
     '2.25.168199695797761244480283303317120856014', '2.25.64897172310023480691800774295636338784', 2000000011),
    (706, 4, 9104, 504, '2018-01-02',
     '2.25.296671636864947125117856247437155632115', '2.25.28363687823726558483333811397477435550', 2000000011);
