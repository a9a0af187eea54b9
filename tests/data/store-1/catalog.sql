BEGIN TRANSACTION;
CREATE TABLE artifacts (
	number INTEGER NOT NULL, 
	build INTEGER NOT NULL, 
	id TEXT NOT NULL, 
	target TEXT NOT NULL, 
	arch TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	store TEXT NOT NULL, 
	size_bytes BIGINT NOT NULL, 
	details JSON NOT NULL, 
	CONSTRAINT pk_artifacts PRIMARY KEY (number), 
	CONSTRAINT fk_artifacts_build FOREIGN KEY(build) REFERENCES builds (number), 
	CONSTRAINT uq_artifacts_build_store_id UNIQUE (build, store, id)
);
INSERT INTO "artifacts" VALUES(1,1,'sha256:cc41e84d5d3e784caed6f45a6b53ba00f4aef7ab6f8d53aab4782c763c85e171','local','x86_64','layers','builder-1',1000,'{}');
INSERT INTO "artifacts" VALUES(2,2,'sha256:cc41e84d5d3e784caed6f45a6b53ba00f4aef7ab6f8d53aab4782c763c85e171','local','x86_64','layers','builder-1',1000,'{}');
CREATE TABLE bake_stages (
	bake TEXT NOT NULL, 
	stage TEXT NOT NULL, 
	started TEXT NOT NULL, 
	seconds FLOAT, 
	outcome TEXT NOT NULL, 
	CONSTRAINT pk_bake_stages PRIMARY KEY (bake, stage), 
	CONSTRAINT fk_bake_stages_bake FOREIGN KEY(bake) REFERENCES bakes (id)
);
INSERT INTO "bake_stages" VALUES('01J00000000000000000000000','capture','2026-11-22T23:54:37.721410+00:00',1.5,'done');
INSERT INTO "bake_stages" VALUES('01J00000000000000000000001','capture','2026-11-22T23:54:37.913198+00:00',1.5,'done');
CREATE TABLE bakes (
	id TEXT NOT NULL, 
	recipe TEXT NOT NULL, 
	target TEXT NOT NULL, 
	arch TEXT NOT NULL, 
	actor TEXT NOT NULL, 
	host TEXT NOT NULL, 
	pid INTEGER NOT NULL, 
	started TEXT NOT NULL, 
	finished TEXT, 
	outcome TEXT, 
	image TEXT, 
	error TEXT, 
	log_path TEXT NOT NULL, 
	CONSTRAINT pk_bakes PRIMARY KEY (id)
);
INSERT INTO "bakes" VALUES('01J00000000000000000000000','base','local','x86_64','ann','vm',11686,'2026-11-22T23:54:37.708614+00:00','2026-11-22T23:54:37.898513+00:00','baked','base:1',NULL,'/logs/01J00000000000000000000000.log');
INSERT INTO "bakes" VALUES('01J00000000000000000000001','web','local','x86_64','ann','vm',11686,'2026-11-22T23:54:37.906702+00:00','2026-11-22T23:54:38.062747+00:00','baked','web:1',NULL,'/logs/01J00000000000000000000001.log');
INSERT INTO "bakes" VALUES('01J00000000000000000000009','web','local','x86_64','ann','gone',11686,'2026-11-22T23:54:38.099658+00:00',NULL,NULL,NULL,NULL,'/logs/01J00000000000000000000009.log');
CREATE TABLE build_layers (
	build INTEGER NOT NULL, 
	position INTEGER NOT NULL, 
	layer INTEGER NOT NULL, 
	CONSTRAINT pk_build_layers PRIMARY KEY (build, position), 
	CONSTRAINT fk_build_layers_build FOREIGN KEY(build) REFERENCES builds (number), 
	CONSTRAINT fk_build_layers_layer FOREIGN KEY(layer) REFERENCES layers (number)
);
INSERT INTO "build_layers" VALUES(1,0,1);
INSERT INTO "build_layers" VALUES(2,0,1);
CREATE TABLE build_packages (
	build INTEGER NOT NULL, 
	package INTEGER NOT NULL, 
	CONSTRAINT pk_build_packages PRIMARY KEY (build, package), 
	CONSTRAINT fk_build_packages_build FOREIGN KEY(build) REFERENCES builds (number), 
	CONSTRAINT fk_build_packages_package FOREIGN KEY(package) REFERENCES packages (number)
)
 WITHOUT ROWID

;
INSERT INTO "build_packages" VALUES(1,1);
INSERT INTO "build_packages" VALUES(2,1);
INSERT INTO "build_packages" VALUES(1,2);
INSERT INTO "build_packages" VALUES(2,2);
CREATE TABLE builds (
	number INTEGER NOT NULL, 
	id TEXT NOT NULL, 
	recipe TEXT NOT NULL, 
	target TEXT NOT NULL, 
	arch TEXT NOT NULL, 
	fingerprint TEXT NOT NULL, 
	digest TEXT NOT NULL, 
	size_bytes BIGINT NOT NULL, 
	created TEXT NOT NULL, 
	source TEXT NOT NULL, 
	source_digest TEXT NOT NULL, 
	inputs JSON NOT NULL, 
	"commit" TEXT, 
	dirty BOOLEAN, 
	actor TEXT NOT NULL, 
	host TEXT NOT NULL, 
	started TEXT NOT NULL, 
	finished TEXT NOT NULL, 
	tools JSON NOT NULL, 
	opaque TEXT, 
	parent_build TEXT, 
	CONSTRAINT pk_builds PRIMARY KEY (number), 
	CONSTRAINT fk_builds_recipe FOREIGN KEY(recipe) REFERENCES recipes (name), 
	CONSTRAINT uq_builds_id UNIQUE (id)
);
INSERT INTO "builds" VALUES(1,'01J00000000000000000000000','base','local','x86_64','sha256:c7ed9660590d4da8167477c08fb237ae36170632986ed8646a69bf2a861c3af1','sha256:b54015e51cd1ffaa40c25e55e275d4eab1b8d893ee0efb068cfda1e5f8437c90',1000,'2025-06-01T12:00:00.000000+00:00','debian:trixie','sha256:50573ac999b4f7516852df798aafddb1ef893a0352b7c1c7559b984eb5a40bbc','{"recipe/deploy.py":"sha256:b7bd55c11b781b0ccc43aa6e57f9dadf0660e9d1d4e27e0979ee43a407d454ae"}',NULL,NULL,'ann','builder-1','2025-06-01T12:00:00.000000+00:00','2025-06-01T12:01:30.000000+00:00','{"pyinfra":"3.10"}',NULL,NULL);
INSERT INTO "builds" VALUES(2,'01J00000000000000000000001','web','local','x86_64','sha256:c162d1c7877c6eebac9b641a09b797c8b859b87437a23da432fc5dfa61d2dd63','sha256:e20b9a497f6235cf8749894f0899862dcc7c4c279bdd76c6b74a0eee42251222',1000,'2025-06-01T12:00:00.000000+00:00','debian:trixie','sha256:50573ac999b4f7516852df798aafddb1ef893a0352b7c1c7559b984eb5a40bbc','{"recipe/deploy.py":"sha256:b7bd55c11b781b0ccc43aa6e57f9dadf0660e9d1d4e27e0979ee43a407d454ae"}',NULL,NULL,'ann','builder-1','2025-06-01T12:00:00.000000+00:00','2025-06-01T12:01:30.000000+00:00','{"pyinfra":"3.10"}',NULL,NULL);
CREATE TABLE catalog_revision (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT catalog_revision_pkc PRIMARY KEY (version_num)
);
INSERT INTO "catalog_revision" VALUES('0001');
CREATE TABLE channel_moves (
	recipe TEXT NOT NULL, 
	channel TEXT NOT NULL, 
	revision INTEGER NOT NULL, 
	from_version INTEGER, 
	to_version INTEGER NOT NULL, 
	actor TEXT NOT NULL, 
	reason TEXT, 
	at TEXT NOT NULL, 
	CONSTRAINT pk_channel_moves PRIMARY KEY (recipe, channel, revision), 
	CONSTRAINT fk_channel_moves_recipe FOREIGN KEY(recipe) REFERENCES recipes (name)
);
INSERT INTO "channel_moves" VALUES('web','prod',1,NULL,1,'ann','tried','2026-11-22T23:54:38.067187+00:00');
CREATE TABLE channels (
	recipe TEXT NOT NULL, 
	name TEXT NOT NULL, 
	version INTEGER NOT NULL, 
	revision INTEGER NOT NULL, 
	CONSTRAINT pk_channels PRIMARY KEY (recipe, name), 
	CONSTRAINT fk_channels_recipe FOREIGN KEY(recipe) REFERENCES recipes (name)
);
INSERT INTO "channels" VALUES('web','prod',1,1);
CREATE TABLE image_builds (
	image INTEGER NOT NULL, 
	target TEXT NOT NULL, 
	arch TEXT NOT NULL, 
	build INTEGER NOT NULL, 
	available BOOLEAN NOT NULL, 
	CONSTRAINT pk_image_builds PRIMARY KEY (image, target, arch), 
	CONSTRAINT fk_image_builds_build FOREIGN KEY(build) REFERENCES builds (number), 
	CONSTRAINT fk_image_builds_image FOREIGN KEY(image) REFERENCES images (number)
);
INSERT INTO "image_builds" VALUES(1,'local','x86_64',1,1);
INSERT INTO "image_builds" VALUES(2,'local','x86_64',2,1);
CREATE TABLE images (
	number INTEGER NOT NULL, 
	recipe TEXT NOT NULL, 
	version INTEGER NOT NULL, 
	complete BOOLEAN NOT NULL, 
	created TEXT NOT NULL, 
	status TEXT NOT NULL, 
	status_reason TEXT, 
	status_actor TEXT NOT NULL, 
	status_at TEXT NOT NULL, 
	CONSTRAINT pk_images PRIMARY KEY (number), 
	CONSTRAINT fk_images_recipe FOREIGN KEY(recipe) REFERENCES recipes (name), 
	CONSTRAINT uq_images_recipe_version UNIQUE (recipe, version)
);
INSERT INTO "images" VALUES(1,'base',1,1,'2026-11-22T23:54:37.732204+00:00','available',NULL,'ann','2026-11-22T23:54:37.860157+00:00');
INSERT INTO "images" VALUES(2,'web',1,1,'2026-11-22T23:54:37.936831+00:00','available',NULL,'ann','2026-11-22T23:54:38.010722+00:00');
CREATE TABLE layers (
	number INTEGER NOT NULL, 
	digest TEXT NOT NULL, 
	content BLOB NOT NULL, 
	CONSTRAINT pk_layers PRIMARY KEY (number), 
	CONSTRAINT uq_layers_digest UNIQUE (digest)
);
INSERT INTO "layers" VALUES(1,'sha256:32e7bd621ed1746e43c32d382ae85186d178892fcd621705127249311c253063',X'789C254CED6AC330107B97FB6DD6DCF9FC717995901FF6E5DC05327734ED188CBDFB3C8A901042D20F6CFBD5CE07CC70BE170A71F664A96E91D0364C1C8DBD7ADA7CA66239608E23CD59A8E97F274D0129118B47540A7E8A1E1C7C96BBF571D99FC7E1E06E1FB72FDB605E56076D3FEC1C76818B3DF4D2AF7BFF7EE99BDE7A1BE341A6C9BD00E6EBA4CC24B9292AB294561B6B1689AD0A31A5628CC691A58A672D2C41046BCA816A0E611C825BD675FDFD03594B413D');
CREATE TABLE ledger (
	number INTEGER NOT NULL, 
	bake TEXT NOT NULL, 
	provider TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	id TEXT NOT NULL, 
	place TEXT NOT NULL, 
	details JSON NOT NULL, 
	state TEXT NOT NULL, 
	intended_at TEXT NOT NULL, 
	changed_at TEXT NOT NULL, 
	CONSTRAINT pk_ledger PRIMARY KEY (number), 
	CONSTRAINT uq_ledger_bake_provider_kind_id_place UNIQUE (bake, provider, kind, id, place)
);
INSERT INTO "ledger" VALUES(1,'01J00000000000000000000009','local','machine','01J00000000000000000000009','','{}','intended','2026-11-22T23:54:38.101393+00:00','2026-11-22T23:54:38.101393+00:00');
CREATE TABLE packages (
	number INTEGER NOT NULL, 
	"key" TEXT NOT NULL, 
	type TEXT NOT NULL, 
	name TEXT NOT NULL, 
	version TEXT NOT NULL, 
	arch TEXT NOT NULL, 
	source TEXT NOT NULL, 
	source_version TEXT NOT NULL, 
	CONSTRAINT pk_packages PRIMARY KEY (number), 
	CONSTRAINT uq_packages_key UNIQUE ("key")
);
INSERT INTO "packages" VALUES(1,'552e65b286eccc72cac75ba8b73c0c219bf17bb9cfe24dde94dcdf2245568692','deb','libc6','2.41-12','amd64','libc6','2.41-12');
INSERT INTO "packages" VALUES(2,'1e28ee3abe45351ccb0957b6695dfa00f4ce5b150ce2a3c78736c89ef1fcd57a','deb','nginx','1.26.3-3','amd64','nginx','1.26.3-3');
CREATE TABLE recipes (
	name TEXT NOT NULL, 
	last_version INTEGER NOT NULL, 
	CONSTRAINT pk_recipes PRIMARY KEY (name)
);
INSERT INTO "recipes" VALUES('base',1);
INSERT INTO "recipes" VALUES('web',1);
CREATE INDEX ix_bakes_outcome ON bakes (outcome);
CREATE INDEX ix_ledger_state ON ledger (state);
CREATE INDEX ix_packages_name_version ON packages (name, version);
CREATE INDEX ix_packages_source ON packages (source);
CREATE INDEX ix_builds_digest ON builds (digest);
CREATE INDEX ix_builds_parent_build ON builds (parent_build);
CREATE INDEX ix_builds_recipe_target_arch ON builds (recipe, target, arch);
CREATE INDEX ix_artifacts_id ON artifacts (id);
CREATE INDEX ix_build_layers_layer ON build_layers (layer);
CREATE INDEX ix_build_packages_package_build ON build_packages (package, build);
CREATE INDEX ix_image_builds_build ON image_builds (build);
COMMIT;
