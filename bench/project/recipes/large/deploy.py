from pyinfra.operations import apt

apt.packages(name="Install nginx and PostgreSQL", packages=["nginx", "postgresql"], update=True)
