CREATE TABLE `daily_summary` (
  `vehicle_id` varchar(255) NOT NULL,
  `day` date NOT NULL,
  `last_event_time` datetime(6) NOT NULL,
  `last_event_type` varchar(255) NOT NULL,
  `last_id` bigint(20) unsigned NOT NULL,
  PRIMARY KEY (`vehicle_id`,`day`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;
CREATE TABLE `ingest_definitions` (
  `definition` binary(16) NOT NULL,
  `dataset` varchar(64) NOT NULL,
  `text` mediumtext NOT NULL,
  `recorded_at` datetime(6) NOT NULL,
  PRIMARY KEY (`definition`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
CREATE TABLE `ingest_files` (
  `file_no` int(10) unsigned NOT NULL AUTO_INCREMENT,
  `hash` binary(16) NOT NULL,
  `dataset` varchar(64) NOT NULL,
  `name` varchar(255) NOT NULL,
  `bytes` bigint(20) unsigned NOT NULL,
  `records` int(10) unsigned NOT NULL,
  `rejects` int(10) unsigned NOT NULL DEFAULT 0,
  `state` varchar(16) NOT NULL,
  `reason` text DEFAULT NULL,
  `summarised` tinyint(4) NOT NULL DEFAULT 0,
  `registered_at` datetime(6) NOT NULL,
  `settled_at` datetime(6) DEFAULT NULL,
  `definition` binary(16) DEFAULT NULL,
  `path` varbinary(4096) DEFAULT NULL,
  `mark` bigint(20) unsigned DEFAULT NULL,
  PRIMARY KEY (`file_no`),
  UNIQUE KEY `ingest_files_content` (`hash`,`dataset`),
  KEY `ingest_files_summary` (`dataset`,`state`,`summarised`)
) ENGINE=InnoDB AUTO_INCREMENT=3 DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
CREATE TABLE `ingest_frames` (
  `file_no` int(10) unsigned NOT NULL,
  `first_ordinal` int(10) unsigned NOT NULL,
  `records` int(10) unsigned NOT NULL,
  PRIMARY KEY (`file_no`,`first_ordinal`,`records`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
CREATE TABLE `ingest_identities` (
  `hash` binary(16) NOT NULL,
  `content` binary(16) NOT NULL,
  `path_values` mediumtext NOT NULL,
  PRIMARY KEY (`hash`),
  KEY `ingest_identities_content` (`content`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
CREATE TABLE `ingest_indexes` (
  `table_name` varchar(64) NOT NULL,
  `index_name` varchar(64) NOT NULL,
  `position` int(10) unsigned NOT NULL,
  `definition` mediumtext NOT NULL,
  `dropped_at` datetime(6) NOT NULL,
  PRIMARY KEY (`table_name`,`index_name`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
CREATE TABLE `ingest_migrations` (
  `number` int(10) unsigned NOT NULL,
  `name` varchar(64) NOT NULL,
  `checksum` char(32) NOT NULL,
  `applied_at` datetime(6) NOT NULL,
  PRIMARY KEY (`number`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
CREATE TABLE `ingest_purged` (
  `file_no` int(10) unsigned NOT NULL,
  `ordinal` int(10) unsigned NOT NULL,
  `purged_at` datetime(6) NOT NULL,
  PRIMARY KEY (`file_no`,`ordinal`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
CREATE TABLE `ingest_rejects` (
  `file_no` int(10) unsigned NOT NULL,
  `ordinal` int(10) unsigned NOT NULL,
  `code` varchar(32) NOT NULL,
  `field` varchar(255) DEFAULT NULL,
  `byte_offset` bigint(20) unsigned NOT NULL,
  `raw` mediumblob NOT NULL,
  `rejected_at` datetime(6) NOT NULL,
  `message` text DEFAULT NULL,
  PRIMARY KEY (`file_no`,`ordinal`),
  KEY `ingest_rejects_code` (`code`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
CREATE TABLE `ingest_replays` (
  `file_no` int(10) unsigned NOT NULL,
  `ordinal` int(10) unsigned NOT NULL,
  `text` longblob NOT NULL,
  `replayed_at` datetime(6) NOT NULL,
  `definition` binary(16) DEFAULT NULL,
  PRIMARY KEY (`file_no`,`ordinal`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
CREATE TABLE `ingest_retentions` (
  `table_name` varchar(64) NOT NULL,
  `time_column` varchar(64) NOT NULL,
  `rows_before` datetime(6) NOT NULL,
  `taken` varchar(64) DEFAULT NULL,
  `side` int(10) unsigned NOT NULL,
  `last_file` int(10) unsigned NOT NULL,
  PRIMARY KEY (`table_name`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
CREATE TABLE `ingest_retired` (
  `file_no` int(10) unsigned NOT NULL,
  `records` int(10) unsigned NOT NULL,
  `retired_at` datetime(6) NOT NULL,
  PRIMARY KEY (`file_no`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
CREATE TABLE `ingest_seen` (
  `path` binary(16) NOT NULL,
  `file_no` int(10) unsigned NOT NULL,
  `state` binary(16) NOT NULL,
  PRIMARY KEY (`path`,`file_no`),
  KEY `ingest_seen_file` (`file_no`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
CREATE TABLE `ingest_settings` (
  `name` varchar(64) NOT NULL,
  `value` varbinary(255) NOT NULL,
  PRIMARY KEY (`name`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
CREATE TABLE `ingest_superseded` (
  `file_no` int(10) unsigned NOT NULL,
  `ordinal` int(10) unsigned NOT NULL,
  `winner` bigint(20) unsigned NOT NULL,
  `superseded_at` datetime(6) NOT NULL,
  PRIMARY KEY (`file_no`,`ordinal`),
  KEY `ingest_superseded_winner` (`winner`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
CREATE TABLE `vehicle_events` (
  `id` bigint(20) unsigned NOT NULL,
  `vehicle_id` varchar(255) NOT NULL,
  `event_time` datetime(6) NOT NULL,
  `event_source` varchar(255) NOT NULL,
  `event_type` varchar(255) NOT NULL,
  `event_value` varchar(255) NOT NULL,
  `event_extra_data` longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL CHECK (json_valid(`event_extra_data`)),
  `_rescued` longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin DEFAULT NULL CHECK (json_valid(`_rescued`)),
  PRIMARY KEY (`id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;
CREATE TABLE `vehicle_status` (
  `id` bigint(20) unsigned NOT NULL,
  `vehicle_id` varchar(255) NOT NULL,
  `report_time` datetime(6) NOT NULL,
  `status_source` varchar(255) NOT NULL,
  `status` varchar(255) NOT NULL,
  `_rescued` longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin DEFAULT NULL CHECK (json_valid(`_rescued`)),
  PRIMARY KEY (`id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;
